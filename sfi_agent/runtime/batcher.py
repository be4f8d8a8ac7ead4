"""Steps shared by concurrent callers, without a thread of its own.

Whoever waits for a token and finds nobody stepping runs the next step for every turn in progress;
the others wake when it is done. A lone caller therefore decodes in its own thread, and a keyboard
interrupt reaches it there.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count

from sfi_agent.errors import SFIError, TurnTimeoutError
from sfi_agent.runtime.result import Chunk
from sfi_agent.runtime.turn import Turn

log = logging.getLogger(__name__)


_numbers = count()


class Job:
    """A turn in the batcher: its deadline, whether it was cancelled and, once it failed, why.

    Attributes:
        number: jobs that came earlier have lower ones.
        alike: how many tokens it begins with as those of other jobs, by their numbers; as far as asked.
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

    @property
    def over(self) -> bool:
        """Whether no more chunks will come."""
        return self.turn.work is None


class Batcher:
    """Runs turns together.

    Args:
        step: advances every given job by one step; puts a failure into ``job.error``.
    """

    def __init__(self, step: Callable[[Sequence[Job]], None]) -> None:
        self._step = step
        self._changed = threading.Condition()
        self._jobs: list[Job] = []
        self._stepper: int | None = None  # the thread that steps, or holds the batcher paused
        self._pausing = 0  # threads that wait to pause it: before the next step, or they might wait for ever
        self._left: list[Callable[[], None]] = []  # what collected iterators left to the thread that steps

    def run(self, job: Job) -> Generator[Chunk, None, None]:
        """The turn's chunks as they come; closing the iterator cancels the turn.

        Raises:
            TurnTimeoutError: the deadline passed; the session keeps what was generated.
            whatever the model or a plugin raised in this turn's step.
        """
        with self._changed:
            self._jobs.append(job)
        try:
            while True:
                self._wait_for(job)
                error, over = job.error, job.over  # before the last chunks are taken
                yield from job.turn.text.take()
                if error:
                    raise error
                if over:
                    return
        finally:
            self._leave(job)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """No step runs inside this block.

        Raises:
            SFIError: this thread is stepping, or inside such a block already.
        """
        with self._changed:
            self._pausing += 1
            try:
                self._wait_until(lambda: self._stepper is None)
                self._stepper = threading.get_ident()
            finally:
                self._pausing -= 1
                self._changed.notify_all()
        try:
            yield
        finally:
            self._release()

    def after_step(self, call: Callable[[], None]) -> None:
        """Have this thread, which steps, make a call once that is over; what it raises is logged."""
        self._left.append(call)

    def settle(self) -> None:
        """Wait while turns are in a step although their iterators, collected during it, are gone.

        Raises:
            SFIError: there are, and this thread makes that step.
        """
        with self._changed:
            self._wait_until(lambda: not (self._left and self._stepper))

    def _wait_for(self, job: Job) -> None:
        """Return when ``job`` has something to tell; step for everybody if nobody else does."""
        while True:
            with self._changed:
                self._wait_until(lambda: _telling(job) or not (self._stepper or self._pausing))
                if _telling(job):
                    return
                self._stepper = threading.get_ident()
            try:
                active = [other for other in self._jobs if not other.over and not other.error]
                _end_due(active)
                self._step([other for other in active if not other.over and not other.error])
            finally:
                self._release()

    def _wait_until(self, ready: Callable[[], bool]) -> None:
        if self._stepper == threading.get_ident() and not ready():
            raise SFIError(
                "a turn cannot run inside exclusive(), transformers() or a callback of another turn: "
                "it would wait for itself; end that first"
            )
        self._changed.wait_for(ready)

    def _leave(self, job: Job) -> None:
        """Forget ``job``, between steps: a step may be reading its row."""
        if self._stepper == threading.get_ident():  # its iterator was garbage, collected during a step
            self.after_step(partial(self._forget, job))
            return
        with self.paused():
            self._forget(job)

    def _forget(self, job: Job) -> None:
        self._jobs.remove(job)
        job.turn.finish("error" if job.error else "cancelled")

    def _release(self) -> None:
        while True:
            while self._left:
                try:
                    self._left[0]()
                except Exception:  # nobody is left who could be told
                    log.exception("a turn whose iterator was collected failed as it ended")
                del self._left[0]
            with self._changed:
                if not self._left:
                    self._stepper = None
                    self._changed.notify_all()
                    return


def _telling(job: Job) -> bool:
    return job.turn.text.waiting or job.over or job.error is not None


def _end_due(jobs: Sequence[Job]) -> None:
    """End the turns that were cancelled or outlived their deadline."""
    now = time.monotonic()
    for job in jobs:
        try:
            if job.cancelled.is_set():
                job.turn.finish("cancelled")
            elif job.deadline is not None and now > job.deadline:
                got = len(job.turn.generated)
                job.error = TurnTimeoutError(
                    f"the turn passed its deadline after {got} tokens, which the session keeps; "
                    "allow it more time or ask for fewer tokens"
                )
                job.turn.finish("timeout")
        except Exception as error:  # of a plugin of its own
            job.error = error
