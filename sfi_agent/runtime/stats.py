"""Where sessions are, and what moving them has cost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from sfi_agent import events


@dataclass(frozen=True)
class Tier:
    """Sessions in one kind of memory.

    Attributes:
        sessions: how many.
        bytes: that they take.
    """

    sessions: int
    bytes: int


@dataclass(frozen=True)
class Moves:
    """Moves of one kind since the runtime began.

    Attributes:
        count: how many.
        bytes: moved in all.
        seconds: that they took in all.
    """

    count: int = 0
    bytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class SessionStats:
    """A runtime's sessions.

    Attributes:
        device: in the memory of the model's device.
        host: parked in the host's memory.
        to_host, to_device: moves between the two.
        saved: sessions written to disk; bytes are those written.
        loaded: sessions read from disk.
        evicted: sessions that left memory altogether; seconds are those of waiting for the disk.
    """

    device: Tier
    host: Tier
    to_host: Moves
    to_device: Moves
    saved: Moves
    loaded: Moves
    evicted: Moves


class MoveCounter:
    """Counts moves as their events pass; safe from threads.

    Args:
        emit: takes the events, moves or not.
    """

    def __init__(self, emit: Callable[[events.Event], None]) -> None:
        self._emit = emit
        self._moves = dict.fromkeys(("to_host", "to_device", "saved", "loaded", "evicted"), Moves())
        self._guard = threading.RLock()  # a stream may be collected, and tell of its end, inside of it

    def emit(self, event: events.Event) -> None:
        """Pass the event on, counted if it is a move."""
        match event:
            case events.SessionMoved(to=to, bytes=size, seconds=seconds):
                self._count(f"to_{to}", size, seconds)
            case events.SessionSaved(written=size, seconds=seconds):
                self._count("saved", size, seconds)
            case events.SessionLoaded(stored=size, seconds=seconds):
                self._count("loaded", size, seconds)
            case events.SessionEvicted(bytes=size, seconds=seconds):
                self._count("evicted", size, seconds)
        self._emit(event)

    def stats(self, device: Tier, host: Tier) -> SessionStats:
        """What was counted, beside where sessions are now."""
        with self._guard:
            return SessionStats(device, host, **self._moves)

    def _count(self, name: str, size: int, seconds: float) -> None:
        with self._guard:
            before = self._moves[name]
            self._moves[name] = Moves(before.count + 1, before.bytes + size, before.seconds + seconds)
