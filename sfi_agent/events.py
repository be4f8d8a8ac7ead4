"""What the runtime tells the outside: plain frozen dataclasses, passed to ``sfi_on_event``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Event:
    """Base of every event.

    Attributes:
        session: id of the session.
        turn: number of the turn in that session, from 1.
    """

    session: str
    turn: int


@dataclass(frozen=True, kw_only=True)
class RuntimeStarted(Event):
    """A runtime has its model and takes turns; told once, before any session: ``turn`` is 0.

    Attributes:
        model: as it was asked for.
        policy: used where a turn names none; every setting.
        window: tokens that prompt and answer may have together.
    """

    session: str = ""
    turn: int = 0
    model: str
    policy: dict[str, Any]
    window: int


@dataclass(frozen=True, kw_only=True)
class TurnStarted(Event):
    """A turn was admitted.

    Attributes:
        mode: ``dense``, ``sfi`` or ``verified``.
        prompt_tokens: tokens of the whole prompt.
        reused_tokens: those of them whose KV the session already held.
    """

    mode: str
    prompt_tokens: int
    reused_tokens: int


@dataclass(frozen=True, kw_only=True)
class PrefillProgress(Event):
    """A prefill chunk was computed.

    Attributes:
        done: prompt tokens now in the KV cache.
        total: prompt tokens.
    """

    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class SlowStep(Event):
    """A decode step attended to everything.

    Attributes:
        position: position of the last token it read.
        tokens: tokens it read (more than one when it verified a draft).
    """

    position: int
    tokens: int


@dataclass(frozen=True, kw_only=True)
class MemoryRefreshed(Event):
    """A selector refreshed the sparse memory.

    Attributes:
        length: tokens in the context.
        positions: sink + selected + recent, for each layer and KV head.
    """

    length: int
    positions: int


@dataclass(frozen=True, kw_only=True)
class DraftVerified(Event):
    """Verified mode checked a draft.

    Attributes:
        drafted: tokens that fast steps proposed.
        accepted: how many of them dense attention agreed with.
    """

    drafted: int
    accepted: int


@dataclass(frozen=True, kw_only=True)
class ToolCallFound(Event):
    """The answer of a turn that offered tools has a call; told as soon as all of it has come.

    Attributes:
        index: counts the calls of an answer from 0.
        name: of the tool; empty where the call names none that can be read.
        valid: whether its arguments are a JSON object.
    """

    index: int
    name: str
    valid: bool


@dataclass(frozen=True, kw_only=True)
class TurnFinished(Event):
    """A turn ended, for whatever reason.

    Attributes:
        reason: ``stop``, ``length``, ``cancelled``, ``timeout`` or ``error``.
        completion_tokens: tokens generated.
        slow_steps: decode steps that attended to everything.
        fast_steps: decode steps that attended to the sparse memory.
    """

    reason: str
    completion_tokens: int
    slow_steps: int
    fast_steps: int


@dataclass(frozen=True, kw_only=True)
class SessionEvicted(Event):
    """An idle session left memory to keep the runtime's limits.

    Attributes:
        bytes: that it took.
        stored: whether it is in the store, to be read when it is called; otherwise its next turn reads
            its whole prompt again.
        seconds: that were waited for the disk.
    """

    bytes: int
    stored: bool
    seconds: float


@dataclass(frozen=True, kw_only=True)
class SessionMoved(Event):
    """A session went from the device's memory to the host's, or came back for its next turn.

    Attributes:
        to: ``host`` or ``device``.
        bytes: that were copied.
        seconds: that copying them took.
    """

    to: str
    bytes: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class SessionSaved(Event):
    """A session is on disk as it was at the end of the turn; told by the thread that writes.

    Attributes:
        tokens: tokens of the conversation.
        written: bytes that this save wrote.
        stored: bytes that the session takes on disk.
        seconds: from the start of writing until everything was safe.
    """

    tokens: int
    written: int
    stored: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class SessionNotSaved(Event):
    """A session could not be written; what was stored before is whole, and the next save tries again.

    Attributes:
        reason: why, in one line.
    """

    reason: str


@dataclass(frozen=True, kw_only=True)
class SessionLoaded(Event):
    """A session was read from disk; ``turn`` is the last one it had.

    Attributes:
        tokens: tokens of the conversation.
        stored: bytes that the session takes on disk.
        seconds: from opening its files until its turn could begin.
        lost: what could not be stored or put back and begins anew, so that ``sfi`` turns may go on
            otherwise than without the stop; empty if nothing.
    """

    tokens: int
    stored: int
    seconds: float
    lost: str
