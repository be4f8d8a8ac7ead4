"""Which turns take the next step where some of them draft."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sfi_agent.policy import Policy
from sfi_agent.runtime.draft import DraftRecord
from sfi_agent.runtime.drafting import LONGEST_WAIT, Drafting
from sfi_agent.runtime.step import Outcome, Work

DRAFTS = Work((1,), fast=True, drafted=(1,))
SPARE = DRAFTS._replace(spare=True)
VERIFIES, DENSE, PROMPT = Work((1, 2, 3), wanted=3), Work((1,)), Work((1, 2, 3), prefill=True)


def turn_of(work: Work | None, mode: str = "verified", record: DraftRecord | None = None) -> Any:
    """A job, as far as it is looked at; what it asks once its draft is ended is to verify."""
    limit = SimpleNamespace(record=record)
    turn = SimpleNamespace(work=work, policy=Policy.of(mode=mode), parts=SimpleNamespace(limit=limit))
    turn.end_draft = lambda: setattr(turn, "work", VERIFIES)
    return SimpleNamespace(turn=turn)


def step(drafting: Drafting, jobs: list[Any]) -> tuple[list[Any], list[Any]]:
    with drafting.counted():
        return drafting.due(jobs)


def test_who_verifies_waits_for_who_drafts_and_nobody_else() -> None:
    jobs = [turn_of(work) for work in (VERIFIES, DRAFTS, DENSE, PROMPT, SPARE)]
    jobs += [turn_of(Work((1, 2, 3)), "sfi"), turn_of(DENSE, "dense"), turn_of(None)]
    due, waiting = step(Drafting(together=True), jobs)
    assert waiting == jobs[:1]
    assert due == jobs[1:]
    assert jobs[4].turn.work is SPARE  # it goes on meanwhile


@pytest.mark.parametrize("other", [VERIFIES, DENSE, PROMPT, SPARE, None])
def test_a_draft_that_would_do_ends_where_nobody_drafts(other: Work | None) -> None:
    spare = turn_of(SPARE)
    jobs = [spare, turn_of(other), turn_of(Work((1,), fast=True), "sfi")]
    assert step(Drafting(together=True), jobs) == (jobs, [])
    assert spare.turn.work is VERIFIES


def test_nobody_waits_where_rows_are_not_verified_together() -> None:
    jobs = [turn_of(work) for work in (VERIFIES, DRAFTS, SPARE)]
    assert step(Drafting(together=False), jobs) == (jobs, [])
    assert [job.turn.work for job in jobs] == [VERIFIES, DRAFTS, VERIFIES]


def test_nobody_waits_for_ever() -> None:
    """However often that is asked in a step."""
    drafting, jobs = Drafting(together=True), [turn_of(VERIFIES), turn_of(DRAFTS)]
    for _ in range(LONGEST_WAIT):
        drafting.due(jobs)
        assert step(drafting, jobs) == (jobs[1:], jobs[:1])
    assert step(drafting, jobs) == step(drafting, jobs) == (jobs, [])
    jobs[0].turn.work = DENSE  # it was verified
    assert step(drafting, jobs) == (jobs, [])
    jobs[0].turn.work = VERIFIES
    assert step(drafting, jobs) == (jobs[1:], jobs[:1])


def test_what_a_step_took_is_told_to_the_records_of_its_verified_turns() -> None:
    record, other = DraftRecord(decided=3), DraftRecord(decided=4)
    jobs = [turn_of(DRAFTS, record=record), turn_of(DRAFTS, record=record), turn_of(DENSE, "sfi", other)]
    drafting = Drafting(together=True)
    with drafting.counted():
        drafting.over([(job, Outcome((), 0.0)) for job in jobs])
        assert record.decided is None  # before turns decide
        assert record.costs.fast is None
    assert record.costs.fast is not None
    assert 0 < record.costs.fast < 10
    assert (other.decided, other.costs.dense) == (4, None)


def test_turns_that_wait_are_judged_as_well() -> None:
    """Without drafts they would have had tokens of that step."""
    record, drafting = DraftRecord(), Drafting(together=True)
    record.step_over(dense := [DENSE, DENSE])
    record.took(dense, 1.0)
    jobs = [turn_of(VERIFIES, record=record), turn_of(DRAFTS, record=record)]
    with drafting.counted():
        due, _ = drafting.due(jobs)
        drafting.over([(job, Outcome((), 0.0)) for job in due])
        jobs[1].turn.work = None
        drafting.due(jobs)  # what begins behind the step
    assert (len(due), record.payoff.turns) == (1, 2)


def test_what_was_compiled_is_no_part_of_it() -> None:
    record, drafting = DraftRecord(), Drafting(together=True)
    with drafting.counted():
        drafting.over([(turn_of(DENSE, record=record), Outcome((), 0.0, preparing=100.0))])
    assert record.costs.dense is not None
    assert record.costs.dense < -50
