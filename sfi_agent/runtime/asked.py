"""What a row asks of a captured step, and what travels between host and device for it."""

from __future__ import annotations

from typing import NamedTuple

import torch

from sfi_agent.runtime.job import Job
from sfi_agent.runtime.remembered import Remembered
from sfi_agent.runtime.row import Row
from sfi_agent.runtime.step import Work


class RowAsk(NamedTuple):
    """What one row asks of a step.

    Attributes:
        job: of the row.
        work: what the step does.
        start: position of the first of its tokens.
        follows: the row's place in the step launched before, which chooses the last of them; None: all are
            known.
    """

    job: Job
    work: Work
    start: int
    follows: int | None = None

    @classmethod
    def of(cls, job: Job) -> RowAsk:
        """What a job's turn asks now."""
        assert job.turn.work is not None
        return cls(job, job.turn.work, job.turn.row.kv.length)

    @property
    def left(self) -> int:
        """Tokens of the prompt that are yet to be read."""
        return len(self.job.turn.prompt) - self.start

    @property
    def may_join(self) -> bool:
        """Whether the turn may begin with what others read of its prompt: it has read nothing itself."""
        turn = self.job.turn
        return turn.others is not None and self.work.prefill and self.start == turn.reused

    @property
    def row(self) -> Row:
        """Of the job's turn."""
        return self.job.turn.row

    @property
    def memory(self) -> Remembered | None:
        """What the step attends to beside what is recent; None: to everything."""
        return self.row.memory.pages if self.work.fast and self.row.memory else None

    @property
    def kept(self) -> bool:
        """Whether the step's queries are kept, as evidence for the row's own selector or its trace.

        Those of a prompt are whatever the selector asks for: the session's next turn may have another.
        """
        turn = self.job.turn
        wanted = self.work.prefill or turn.row.traced or turn.parts.selector.rows_wanted() > 0
        return turn.row.capture and wanted


class Mail:
    """What goes to the device with a step and comes back from it.

    Attributes:
        sent: ``[size]`` int32.
        best: ``[tokens]`` int64, once ``done``.
        done: recorded when they are there; None where there is no waiting.
    """

    def __init__(self, size: int, tokens: int, *, on_gpu: bool) -> None:
        self.sent = torch.zeros(size, dtype=torch.int32, pin_memory=on_gpu)
        self.best = torch.zeros(tokens, dtype=torch.int64, pin_memory=on_gpu)
        self.done = torch.cuda.Event() if on_gpu else None  # type: ignore[no-untyped-call]

    def read(self) -> list[int]:
        """The most likely tokens, once the step is done."""
        self.wait()
        return self.best.tolist()

    def wait(self) -> None:
        """Return once the step that it went with, if any, is done."""
        if self.done:
            self.done.synchronize()
