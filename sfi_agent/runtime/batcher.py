"""Steps shared by concurrent callers, without a thread of its own.

Whoever waits for a token and finds nobody stepping runs the next step for every turn in progress, and
wakes others when it is done. A lone caller therefore decodes in its own thread, and a keyboard interrupt
reaches it there.

To wake a thread takes about as long as its row's share of a step does on the host. So after a step only some
callers are, those that have waited longest; of many rows each has several tokens when its turn comes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from sfi_agent.errors import SFIError, TurnTimeoutError
from sfi_agent.runtime.garbage import collecting
from sfi_agent.runtime.job import Job
from sfi_agent.runtime.result import Chunk

log = logging.getLogger(__name__)

TOLD = 8
"""Callers that are told of their tokens after a step; beside them those whose turns ended."""


class Batcher:
    """Runs turns together.

    Args:
        step: advances every given job by one step; puts a failure into ``job.error``.
    """

    def __init__(self, step: Callable[[Sequence[Job]], None]) -> None:
        self._step = step
        self._guard = threading.RLock()  # taken as it is: Ctrl-C may come inside of a condition's own `with`
        self._changed = threading.Condition(self._guard)
        self._jobs: list[Job] = []
        self._steps = 0
        self._stepper: int | None = None  # the thread that steps, or holds the batcher paused
        self._pausing = 0  # threads that wait to pause it: before the next step, or they might wait for ever
        self._left: list[Callable[[], None]] = []  # what iterators that ended meanwhile left to the stepper

    def run(self, job: Job) -> Generator[Chunk, None, None]:
        """The turn's chunks as they come; closing the iterator cancels the turn.

        One that the collector closes does not: whoever made it has :meth:`leave` called, apart from that.

        Raises:
            TurnTimeoutError: the deadline passed; the session keeps what was generated.
            whatever the model or a plugin raised in this turn's step.
        """
        with self._guard:
            self._jobs.append(job)
        try:
            while True:
                self._wait_for(job)
                failed, over = job.error is not None, job.over  # before the last chunks are taken
                yield from job.turn.text.take()
                if failed:
                    assert job.error is not None
                    raise job.error
                if over:
                    return
        finally:
            try:
                if not collecting():
                    self.leave(job)
            except KeyboardInterrupt:  # while another thread steps, say
                self.after_step(partial(self._forget, job))
                raise

    @contextmanager
    def paused(self) -> Iterator[None]:
        """No step runs inside this block.

        Raises:
            SFIError: this thread is stepping, or inside such a block already.
        """
        paused = False
        try:
            with self._guard:
                self._pausing += 1
                try:
                    self._wait_until(lambda: self._stepper is None)
                    self._stepper, paused = threading.get_ident(), True
                finally:
                    self._pausing -= 1
                    self._hand_over()
            yield
        finally:
            if paused:
                try:
                    self._release()
                except KeyboardInterrupt:
                    self._release()
                    raise

    def after_step(self, call: Callable[[], None]) -> None:
        """Have the thread that steps make a call behind its step, or this one now; errors are logged."""
        self._left.append(call)
        with self._guard:
            if self._stepper:
                return
            self._stepper = threading.get_ident()
        self._release()

    def settle(self) -> None:
        """Wait while turns are in a step although their iterators, dropped during it, are gone.

        Raises:
            SFIError: there are, and this thread makes that step.
        """
        with self._guard:
            self._wait_until(lambda: not (self._left and self._stepper))

    def _wait_for(self, job: Job) -> None:
        """Return when ``job`` has something to tell; step for everybody if nobody else does."""
        with self._guard:
            self._refuse_own_wait(lambda: job.telling)
            job.due = job.telling
        while not job.due:
            with self._guard:
                steps = not (self._stepper or self._pausing)
                if steps:
                    self._stepper = threading.get_ident()
                job.waits = not steps
            if steps:
                try:
                    self._step_until_due(job)
                finally:
                    try:  # here, not in a call of its own, as that begins where Ctrl-C may come
                        self._release()
                    except KeyboardInterrupt:
                        self._release()
                        raise
            else:
                job.sleep()

    def _step_until_due(self, job: Job) -> None:
        """Step for everybody until ``job`` is to take what there is, or somebody wants to pause."""
        while not (job.due or self._pausing):
            active = [other for other in self._jobs if not other.ended]
            _end_due(active)
            self._step([other for other in active if not other.ended])
            self._run_left()
            self._tell(job)

    def _tell(self, own: Job) -> None:
        """Wake callers that have something to take, those first that were not for longest."""
        with self._guard:
            self._steps += 1
            telling = [job for job in self._jobs if (job.waits or job is own) and job.telling]
            ended = [job for job in telling if job.ended]
            others = sorted((job for job in telling if not job.ended), key=lambda job: job.told)
            for job in ended + others[:TOLD]:
                job.due, job.told = True, self._steps
                job.wake()

    def _wait_until(self, ready: Callable[[], bool]) -> None:
        self._refuse_own_wait(ready)
        self._changed.wait_for(ready)

    def _refuse_own_wait(self, ready: Callable[[], bool]) -> None:
        if self._stepper == threading.get_ident() and not ready():
            raise SFIError(
                "a turn cannot run inside exclusive(), transformers() or a callback of another turn: "
                "it would wait for itself; end that first"
            )

    def leave(self, job: Job) -> None:
        """Forget ``job``, between steps: a step may be reading its row."""
        if self._stepper == threading.get_ident():  # its iterator was dropped during a step
            self.after_step(partial(self._forget, job))
            return
        with self.paused():
            self._forget(job)

    def _forget(self, job: Job) -> None:
        if job in self._jobs:
            self._jobs.remove(job)
        reason = "error" if job.error else "cancelled"
        job.error = None  # its traceback knows the job: neither would be gone before the collector runs
        job.turn.finish(reason)

    def _release(self) -> None:
        """This thread steps no more, nor holds the batcher paused; again where Ctrl-C ended that."""
        while self._stepper == threading.get_ident():
            self._run_left()
            with self._guard:
                if not self._left:
                    self._stepper = None
        with self._guard:
            self._hand_over()

    def _run_left(self) -> None:
        """Make the calls that were left to this thread."""
        while self._left:
            try:
                self._left[0]()
            except Exception:  # nobody is left who could be told
                log.exception("a turn whose iterator was dropped failed as it ended")
            del self._left[0]

    def _hand_over(self) -> None:
        """Let those go on who wait for nobody to step; where none does, a caller that waits steps next."""
        self._changed.notify_all()
        if self._stepper or self._pausing:
            return
        waiting = [job for job in self._jobs if job.waits]
        if waiting:
            min(waiting, key=lambda job: job.telling).wake()


def _end_due(jobs: Sequence[Job]) -> None:
    """End the turns that were cancelled or outlived their deadline."""
    now = time.monotonic()
    for job in jobs:
        try:
            if job.cancelled.is_set():
                job.turn.finish("cancelled")
            elif job.deadline is not None and now > job.deadline:
                got = len(job.turn.answer.tokens)
                job.error = TurnTimeoutError(
                    f"the turn passed its deadline after {got} token{'s' * (got != 1)}, which a session "
                    "keeps; allow it more time or ask for fewer tokens"
                )
                job.turn.finish("timeout")
        except Exception as error:  # of a plugin of its own
            job.error = error
