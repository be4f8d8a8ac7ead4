"""Model calls for the turns in progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sfi_agent.errors import SFIError
from sfi_agent.models.architecture import Architecture
from sfi_agent.runtime import meter
from sfi_agent.runtime.ahead import DEVICES, Ahead
from sfi_agent.runtime.asked import Ask
from sfi_agent.runtime.intake import Intake
from sfi_agent.runtime.job import Job
from sfi_agent.runtime.replay import Replayer
from sfi_agent.runtime.step import Outcome, Step, groups_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LONGEST_WAIT = 64
"""Steps for which drafts wait for others: as many as a draft has tokens."""


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
        self._alone, self._waited, self._intake = alone, 0, Intake()
        beside = model.device.type in DEVICES and not alone
        self._ahead = Ahead(replayer, self._intake) if replayer and beside else None

    def step(self, jobs: Sequence[Job]) -> None:
        """Advance jobs by one step, all but what waits; a failure is put into the job it concerns."""
        try:
            self._step(jobs)
        except BaseException:  # Ctrl-C
            for job in jobs:
                if not job.error:  # that turn was told
                    job.turn.rewind()
            raise

    def _step(self, jobs: Sequence[Job]) -> None:
        jobs = self._due(jobs)
        if self._ahead and self._followed(self._ahead, jobs):
            return
        jobs = [ask.job for ask in self._intake.taken([Ask.of(job) for job in jobs])]
        for part in [[job] for job in jobs] if self._alone else [jobs]:
            self._together(part)

    def _due(self, jobs: Sequence[Job]) -> Sequence[Job]:
        """Those whose drafts do not wait: they are verified together, once none is being made.

        A pass over drafts reads the weights once, however many they are. One that would do as it is goes on
        meanwhile.
        """
        drafted = [job for job in jobs if job.turn.policy.mode == "verified"]
        spare = [job for job in drafted if job.turn.work and job.turn.work.spare]
        verifying = {id(job) for job in drafted if _verifies(job)}
        together = self._replayer is not None and not self._alone
        drafting = together and sum(_drafts(job) for job in drafted) > len(spare)
        self._waited = self._waited + 1 if drafting and (spare or verifying) else 0
        if 0 < self._waited <= LONGEST_WAIT:
            return [job for job in jobs if id(job) not in verifying]
        self._waited = 0
        for job in spare:
            job.turn.end_draft()
        return jobs

    def _followed(self, ahead: Ahead, jobs: Sequence[Job]) -> bool:
        """Advance jobs whose steps are under way or can be, the next behind them; False if there are none."""
        with meter.engine([job.turn.meter for job in jobs]):
            done = ahead.step(jobs)
            self._use(done)
            ahead.let_go()
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
        _tell_cost(done)
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


def _tell_cost(done: Sequence[tuple[Job, Outcome]]) -> None:
    """Have what drafts are worth follow a step, before turns decide by it."""
    shared: dict[int, list[tuple[Job, Outcome]]] = {}
    for job, outcome in done:
        if job.turn.policy.mode == "verified":
            shared.setdefault(id(job.turn.parts.limit.record), []).append((job, outcome))
    for each in shared.values():
        works = [job.turn.work for job, _ in each if job.turn.work]
        job, outcome = each[0]
        job.turn.parts.limit.record.step_over(works, outcome.seconds, prompts=outcome.prompts)


def _drafts(job: Job) -> bool:
    """Whether the next step of a verified turn is one of its draft."""
    return job.turn.work is not None and job.turn.work.fast


def _verifies(job: Job) -> bool:
    """Whether the next step of a verified turn reads its draft."""
    work = job.turn.work
    return work is not None and not work.fast and not work.prefill and len(work.tokens) > 1
