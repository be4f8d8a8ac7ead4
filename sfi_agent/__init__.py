"""sfi-agent: slow-fast inference for long LLM sessions.

The names here are the public ones; importing this package loads neither torch nor transformers nor pydantic
until one of the heavy ones is used.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from sfi_agent.errors import SFIError

if TYPE_CHECKING:
    from sfi_agent.policy import Policy as Policy
    from sfi_agent.policy import Sampling as Sampling
    from sfi_agent.registry import Registry as Registry
    from sfi_agent.runtime.limits import Limits as Limits
    from sfi_agent.runtime.result import Chunk as Chunk
    from sfi_agent.runtime.result import TurnResult as TurnResult
    from sfi_agent.runtime.runtime import Runtime as Runtime
    from sfi_agent.runtime.stream import TurnStream as TurnStream
    from sfi_agent.store import SessionStore as SessionStore

__all__ = [
    "Chunk",
    "Limits",
    "Policy",
    "Registry",
    "Runtime",
    "SFIError",
    "Sampling",
    "SessionStore",
    "TurnResult",
    "TurnStream",
]
__version__ = version("sfi-agent")

_LAZY = {
    "Chunk": "sfi_agent.runtime.result",
    "Policy": "sfi_agent.policy",
    "Sampling": "sfi_agent.policy",
    "Registry": "sfi_agent.registry",
    "Runtime": "sfi_agent.runtime.runtime",
    "Limits": "sfi_agent.runtime.limits",
    "SessionStore": "sfi_agent.store",
    "TurnResult": "sfi_agent.runtime.result",
    "TurnStream": "sfi_agent.runtime.stream",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'sfi_agent' has no attribute {name!r}")
