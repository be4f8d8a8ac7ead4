"""Drafts of turns that step together: verified in one pass, and as long as what their steps take says."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sfi_agent.runtime.draft import DraftRecord
from sfi_agent.runtime.job import Job
from sfi_agent.runtime.step import Outcome, Work

LONGEST_WAIT = 64
"""Steps for which drafts wait for others: as many as a draft has tokens."""


class Drafting:
    """Knows of every step which turns in mode ``verified`` it has, and what it took.

    Args:
        together: whether drafts wait for one another, to be verified in one pass.
    """

    def __init__(self, *, together: bool) -> None:
        self._together = together
        self._waits, self._waited = False, 0
        self._turns: Counter[int] | None = None  # that decode, by their records
        self._over: list[tuple[DraftRecord, list[Work], bool]] = []
        self._preparing = 0.0

    def due(self, jobs: Sequence[Job]) -> tuple[list[Job], list[Job]]:
        """Those that take the next step, and those whose drafts wait, to be verified with others'.

        One pass over drafts reads the weights once, however many drafts there are. So while some row still
        needs a step for its draft, those that only want the pass wait, and drafts that are long enough go on
        with spare tokens. When none does, spare steps are called off, and all take the pass together.
        """
        if self._turns is None:
            self._turns = Counter(id(job.turn.parts.limit.record) for job in jobs if _decodes(job))
        drafts = [job for job in jobs if job.turn.work and job.turn.work.drafted]
        spare = [job for job in drafts if job.turn.work and job.turn.work.spare]
        verifying = [job for job in jobs if _verifies(job)]
        self._waits = self._together and len(drafts) > len(spare) and bool(spare or verifying)
        if self._waits and self._waited < LONGEST_WAIT:
            return [job for job in jobs if not _verifies(job)], verifying
        for job in spare:
            job.turn.end_draft()
        return list(jobs), []

    @contextmanager
    def counted(self) -> Iterator[None]:
        """What is ``over`` inside has taken as long as this block, the host's work included."""
        began = time.perf_counter()
        self._over, self._preparing, self._turns = [], 0.0, None
        yield
        self._waited = self._waited + 1 if self._waits else 0
        seconds = time.perf_counter() - began - self._preparing
        for record, works, prompts in self._over:
            turns = self._turns[id(record)] if self._turns else None
            record.took(works, seconds, prompts=prompts, turns=turns)

    def over(self, done: Sequence[tuple[Job, Outcome]]) -> None:
        """A step is, and its turns are about to be told."""
        self._preparing += max((outcome.preparing for _, outcome in done), default=0.0)
        shared: dict[int, tuple[DraftRecord, list[Work], bool]] = {}
        for job, outcome in done:
            if job.turn.policy.mode == "verified" and job.turn.work:
                record = job.turn.parts.limit.record
                shared.setdefault(id(record), (record, [], outcome.prompts))[1].append(job.turn.work)
        for record, works, prompts in shared.values():
            record.step_over(works, prompts=prompts)
        self._over += shared.values()


def _decodes(job: Job) -> bool:
    """Whether a turn is one in mode ``verified`` that has read its prompt."""
    work = job.turn.work
    return job.turn.policy.mode == "verified" and work is not None and not work.prefill


def _verifies(job: Job) -> bool:
    """Whether a turn's next step reads its draft."""
    work = job.turn.work
    return _decodes(job) and work is not None and not work.fast and len(work.tokens) > 1
