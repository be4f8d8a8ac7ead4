"""What turns did, step by step: recorded from events, and shown as one page.

::

    Recorder   a plugin that gathers a Trace: Registry(extra=[recorder])
    Trace      turns with their tokens, steps and memories; JSON
    write      a Trace as a page that needs no network
    LiveView   the same page, served on this machine while turns run
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sfi_agent.trace.model import Trace, TurnTrace
from sfi_agent.trace.recorder import Recorder

if TYPE_CHECKING:
    from sfi_agent.trace.live import LiveView as LiveView
    from sfi_agent.trace.page import write as write

_LAZY = {"LiveView": "sfi_agent.trace.live", "write": "sfi_agent.trace.page"}
__all__ = ["LiveView", "Recorder", "Trace", "TurnTrace", "write"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'sfi_agent.trace' has no attribute {name!r}")
