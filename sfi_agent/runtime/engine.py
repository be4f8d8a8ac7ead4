"""Model calls for the turns in progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sfi_agent.errors import SFIError
from sfi_agent.models.architecture import Architecture
from sfi_agent.runtime import meter
from sfi_agent.runtime.ahead import DEVICES, Ahead
from sfi_agent.runtime.asked import RowAsk
from sfi_agent.runtime.drafting import Drafting
from sfi_agent.runtime.intake import Intake
from sfi_agent.runtime.job import Job
from sfi_agent.runtime.replay import Replayer
from sfi_agent.runtime.step import Outcome, Step, groups_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Engine:
    """Runs steps of one model.

    Args:
        model: on attention ``sfi``.
        architecture: of the model.
        replayer: for rows in pages; None: there are none.
        alone: each row has model calls of its own.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        architecture: Architecture,
        replayer: Replayer | None = None,
        *,
        alone: bool = False,
    ) -> None:
        self._model, self._architecture, self._replayer = model, architecture, replayer
        self._alone, self._intake = alone, Intake()
        self._drafting = Drafting(together=replayer is not None and not alone)
        beside = model.device.type in DEVICES and not alone
        self._ahead = Ahead(replayer, self._intake) if replayer and beside else None

    def step(self, jobs: Sequence[Job]) -> None:
        """Advance jobs by one step, all but what waits; a failure is put into the job it concerns."""
        try:
            with self._drafting.counted():
                self._step(jobs)
        except BaseException:  # Ctrl-C
            for job in jobs:
                if not job.error:  # that turn was told
                    job.turn.rewind()
            raise

    def _step(self, jobs: Sequence[Job]) -> None:
        due, waiting = self._drafting.due(jobs)
        if self._ahead and self._followed(self._ahead, due, waiting):
            return
        jobs = [ask.job for ask in self._intake.taken([RowAsk.of(job) for job in due])]
        for part in [[job] for job in jobs] if self._alone else [jobs]:
            self._together(part)

    def _followed(self, ahead: Ahead, due: Sequence[Job], waiting: Sequence[Job]) -> bool:
        """Advance jobs whose steps are under way or can be, the next behind them; False if there are none."""
        with meter.engine([job.turn.meter for job in due]):
            done = ahead.step(due, waiting)
            self._use(done)
            if done:
                going_on = [job for job in (*due, *waiting) if not job.ended]
                ahead.begin(self._drafting.due(going_on)[0])
        return bool(done)

    def _together(self, jobs: Sequence[Job]) -> None:
        """Advance all of these, in as few model calls as their kinds allow."""
        if self._replayer:
            lanes, jobs = self._replayer.lanes(jobs)
            for lane in lanes:
                self._timed(lane, self._replayer.run)
        works = [job.turn.work for job in jobs if job.turn.work]
        rows = [job.turn.row for job in jobs]
        for group in groups_of(rows, works, self._architecture.rotary_limit):
            self._timed([jobs[index] for index in group], self._called)

    def _timed(self, jobs: Sequence[Job], run: Callable[[Sequence[Job]], list[Outcome]]) -> None:
        with meter.engine([job.turn.meter for job in jobs]):
            self._advance(jobs, run)

    def _called(self, jobs: Sequence[Job]) -> list[Outcome]:
        turns = [job.turn for job in jobs]
        works = [turn.work for turn in turns if turn.work]
        kernels = [turn.parts.kernel for turn in turns]
        step = Step([turn.row for turn in turns], works, kernels, self._architecture.window)
        return step.run(self._model, self._model.device)

    def _advance(self, jobs: Sequence[Job], run: Callable[[Sequence[Job]], list[Outcome]]) -> None:
        """One model call for these jobs; a failure is put into each job it concerns."""
        try:
            outcomes = run(jobs)
        except Exception as error:
            for job in jobs:
                job.turn.rewind()
            if len(jobs) == 1:
                jobs[0].error = error
            else:  # each alone shows whose plugin it was
                for job in jobs:
                    self._advance([job], run)
            return
        self._use(list(zip(jobs, outcomes, strict=True)))

    def _use(self, done: Sequence[tuple[Job, Outcome]]) -> None:
        """Tell turns what their steps found."""
        self._drafting.over(done)
        interrupt: BaseException | None = None
        for job, outcome in done:
            try:
                job.turn.advance(outcome)
            except Exception as error:
                job.error = error
            except BaseException as error:  # Ctrl-C: the others' rows are written, so they must go on
                interrupt = error
                job.error = SFIError("the turn was interrupted while its step ended; send it again")
        if interrupt:
            raise interrupt
