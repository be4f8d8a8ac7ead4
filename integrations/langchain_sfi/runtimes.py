"""One runtime for each (model, device, dtype, store) in the process, loaded when first asked for."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sfi_agent import Runtime

Key = tuple[str, str, str, str | None]


@dataclass
class _Slot:
    """Where a runtime is, or will be; its lock lets others wait for the one thread that loads or closes."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    runtime: Runtime | None = None
    closed: bool = False


_slots: dict[Key, _Slot] = {}
_slots_lock = threading.Lock()


def shared_runtime(
    model: str, device: str = "auto", dtype: str = "auto", store: str | None = None
) -> Runtime:
    """The process's runtime that instances of equal settings share, loaded at the first call.

    Safe from threads. A load that fails is not remembered: the next call tries again.

    Args:
        model, device, dtype, store: as :class:`SFIChatModel` takes them.

    Raises:
        ModelError: the model cannot be found, loaded or served.
    """
    while True:
        with _slots_lock:
            slot = _slots.setdefault((model, device, dtype, store), _Slot())
        with slot.lock:
            if slot.closed:  # and forgotten, while this thread waited
                continue
            if slot.runtime is None:
                from sfi_agent import Runtime  # imports torch and transformers

                slot.runtime = Runtime.load(model, device=device, dtype=dtype, store=store)
            return slot.runtime


def close_runtimes() -> None:
    """Close every shared runtime and forget it, whichever fails to close; the next use loads anew.

    Raises:
        SessionNotSavedError: a session could not be written.
    """
    with _slots_lock:
        slots = list(_slots.values())
        _slots.clear()
    with ExitStack() as closing:
        for slot in slots:
            closing.callback(_close, slot)


def _close(slot: _Slot) -> None:
    with slot.lock:
        slot.closed = True
        if slot.runtime is not None:
            slot.runtime.close()
