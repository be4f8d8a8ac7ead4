"""Events on their way to the broker: a bounded queue that never makes the decoding thread wait."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from sfi_agent.errors import SettingError
from sfi_agent.events import Event


@dataclass(frozen=True)
class Pending:
    """An event that waits, with what is known only when it happens.

    Attributes:
        event: the event.
        sequence: its number among the events of this runtime, from 1.
        time: when it happened, UTC.
    """

    event: Event
    sequence: int
    time: datetime


class Outbox:
    """A queue of at most ``size`` events; when it is full the oldest is dropped, and counted.

    Args:
        size: events kept while the broker is away.
        wake: called, from the thread that puts, when there is something to take again.
    """

    def __init__(self, size: int, wake: Callable[[], None] = lambda: None) -> None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise SettingError(f"queue_size: must be a whole number of events above 0 (given {size!r})")
        self.size = size
        self.wake = wake
        self._waiting: deque[Pending] = deque()
        # Held for a few list operations, never across I/O; a stream may be collected inside, and put its end.
        self._lock = threading.RLock()
        self._sequence = 0
        self._dropped = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def dropped(self) -> int:
        """Events dropped so far."""
        return self._dropped

    def put(self, event: Event) -> None:
        """Add an event, dropping the oldest if there is no room."""
        with self._lock:
            idle = not self._waiting
            self._sequence += 1
            self._waiting.append(Pending(event, self._sequence, datetime.now(UTC)))
            self._shed()
        if idle:
            self.wake()

    def take(self, limit: int) -> list[Pending]:
        """Remove and return the oldest events, at most ``limit``."""
        with self._lock:
            return [self._waiting.popleft() for _ in range(min(limit, len(self._waiting)))]

    def give_back(self, taken: Iterable[Pending]) -> None:
        """Put events that were taken but not delivered back where they were."""
        with self._lock:
            self._waiting.extendleft(reversed(list(taken)))
            self._shed()

    def discard(self, count: int = 1) -> None:
        """Count events that were taken and cannot be delivered."""
        with self._lock:
            self._dropped += count

    def clear(self) -> int:
        """Drop everything that waits; returns how many."""
        left = self.take(self.size)
        self.discard(len(left))
        return len(left)

    def _shed(self) -> None:
        while len(self._waiting) > self.size:
            self._waiting.popleft()
            self._dropped += 1
