"""Model calls for the turns in progress."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from transformers import PreTrainedModel

from sfi_agent.errors import SFIError
from sfi_agent.models.architecture import Architecture
from sfi_agent.runtime.batcher import Job
from sfi_agent.runtime.step import Step, groups_of


class Engine:
    """Runs steps of one model.

    Args:
        model: on attention ``sfi``.
        architecture: of the model.
    """

    def __init__(self, model: PreTrainedModel, architecture: Architecture) -> None:
        self._model, self._architecture = model, architecture

    def step(self, jobs: Sequence[Job]) -> None:
        """Advance every job by one step; a failure is put into the job it concerns."""
        works = [job.turn.work for job in jobs if job.turn.work]
        rows = [job.turn.row for job in jobs]
        for group in groups_of(rows, works, self._architecture.rotary_limit):
            self._run([jobs[index] for index in group])

    def _run(self, jobs: Sequence[Job]) -> None:
        with ExitStack() as clocks:
            for job in jobs:
                clocks.enter_context(job.turn.meter.engine())
            self._call(jobs)

    def _call(self, jobs: Sequence[Job]) -> None:
        """One model call for these jobs; a failure is put into each job it concerns."""
        turns = [job.turn for job in jobs]
        works = [turn.work for turn in turns if turn.work]
        try:
            step = Step(
                [turn.row for turn in turns],
                works,
                [turn.parts.kernel for turn in turns],
                self._architecture.window,
            )
            outcomes = step.run(self._model, self._model.device)
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].error = error
            else:  # nothing was committed: each alone shows whose plugin it was
                for job in jobs:
                    self._call([job])
            return
        interrupt: BaseException | None = None
        for job, outcome in zip(jobs, outcomes, strict=True):
            try:
                job.turn.advance(outcome)
            except Exception as error:
                job.error = error
            except BaseException as error:  # Ctrl-C: the others' rows are written, so they must go on
                interrupt = error
                job.error = SFIError("the turn was interrupted while its step ended; send it again")
        if interrupt:
            raise interrupt
