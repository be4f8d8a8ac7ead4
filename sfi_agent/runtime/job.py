"""A turn in progress, and the caller that waits for its tokens."""

from __future__ import annotations

import threading
import time
from itertools import count

from sfi_agent.runtime.turn import Turn

_numbers = count()


class Job:
    """A turn in the batcher: its deadline, whether it was cancelled and, once it failed, why.

    Attributes:
        number: jobs that came earlier have lower ones.
        alike: how many tokens it begins with as those of other jobs, by their numbers; as far as asked.
        waits: whether its caller sleeps until it is woken.
        due: whether the caller, once awake, takes the chunks there are; otherwise it steps for everybody.
        told: after how many of the batcher's steps that was last so; who has waited longest comes first.
        place: what the turn has while it runs. Its iterator may be garbage; this is none before the job is.
    """

    def __init__(
        self, turn: Turn, timeout: float | None = None, cancelled: threading.Event | None = None
    ) -> None:
        self.turn = turn
        self.number = next(_numbers)
        self.alike: dict[int, int] = {}
        self.cancelled = cancelled or threading.Event()
        self.deadline = time.monotonic() + timeout if timeout is not None else None
        self.error: BaseException | None = None
        self.place: object = None
        self.waits, self.due, self.told = False, False, -1
        self._bell = threading.Lock()
        self._bell.acquire()

    @property
    def over(self) -> bool:
        """Whether no more chunks will come."""
        return self.turn.work is None

    @property
    def ended(self) -> bool:
        """Whether it is over or failed."""
        return self.over or self.error is not None

    @property
    def telling(self) -> bool:
        """Whether there is something for its caller."""
        return self.turn.text.waiting or self.ended

    def sleep(self) -> None:
        """Until it is woken; at once if it was since ``waits`` was set."""
        self._bell.acquire()

    def wake(self) -> None:
        """Have its caller go on, if it waits."""
        if self.waits:
            self.waits = False
            self._bell.release()
