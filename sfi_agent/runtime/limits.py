"""What sessions may take."""

from __future__ import annotations

from dataclasses import dataclass

from sfi_agent.errors import SettingError


@dataclass(frozen=True)
class Limits:
    """What the sessions of a runtime may take together. A limit of None, the default, is none.

    Looked at when a turn begins and when it ends: no thread watches them in between.

    Attributes:
        bytes: of keys, values, indexes and memories on the model's device; a running turn counts with what
            it may grow to.
        host_bytes: of sessions that left a GPU for the host's memory, from which they come back sooner than
            from disk; None: none go there. Without a GPU there is no such place, and it does nothing.
        sessions: that stay in memory between turns.
        idle_seconds: after which a session that nobody uses leaves memory.

    Raises:
        SettingError: a limit is not a number above 0.
    """

    bytes: int | None = None
    host_bytes: int | None = None
    sessions: int | None = None
    idle_seconds: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not (isinstance(value, int | float) and value > 0):
                raise SettingError(f"limits: {name} must be a number above 0 (given {value!r})")
