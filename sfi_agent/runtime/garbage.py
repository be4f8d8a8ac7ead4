"""What ends because the collector found it: in any thread, inside of whatever that thread has locked."""

from __future__ import annotations

import _thread
import gc
import logging
import threading
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)
_collects: int | None = None


def collecting() -> bool:
    """Whether this thread is collecting garbage: what it ends meanwhile must wait for nothing."""
    return _collects == threading.get_ident()


def apart(call: Callable[[], None]) -> None:
    """Make a call in a thread of its own; errors are logged."""
    # Not one of ``threading``: the collector may run inside of its locks, too.
    try:
        _thread.start_new_thread(_logged, (call,))
    except RuntimeError:  # Python ends, and nobody else runs
        _logged(call)


def _logged(call: Callable[[], None]) -> None:
    try:
        call()
    except Exception:  # nobody is left who could be told
        log.exception("a turn whose iterator was collected failed as it ended")


def _told(phase: str, _: dict[str, Any]) -> None:
    global _collects
    _collects = threading.get_ident() if phase == "start" else None


gc.callbacks.append(_told)
