"""How long drafts become: by acceptance and cost, on made-up costs."""

from __future__ import annotations

import random
from typing import Any

import pytest

from sfi_agent.runtime.draft import (
    FIRST_PAUSE,
    JUDGED,
    PROBE_TOKENS,
    DraftCosts,
    DraftLimit,
    DraftRecord,
    Payoff,
)
from sfi_agent.runtime.step import Work

DENSE, FAST = Work((1,)), Work((1,), fast=True)


def limit(fast: float, dense: float, each: float, accepted: float = 19.0, tried: float = 20.0) -> DraftLimit:
    """A limit that knows its costs: ``each`` is what one more token of a verify pass adds to ``dense``."""
    verify = {tokens: dense + each * (tokens - 1) for tokens in (5, 17)}
    return DraftLimit(16, True, DraftRecord(DraftCosts(fast, dense, verify), accepted, tried))


def asked(drafts: DraftLimit, times: int) -> list[int]:
    """What it says after each of so many steps."""
    answers = []
    for _ in range(times):
        drafts.record.decided = None
        answers.append(drafts.next())
    return answers


def told(record: DraftRecord, works: list[Work], seconds: float, **facts: Any) -> None:
    """A step is over."""
    record.step_over(works, prompts=facts.get("prompts", False))
    record.took(works, seconds, **facts)


def test_it_measures_a_dense_step_and_then_a_fast_one_first() -> None:
    fresh = DraftLimit(16, True, DraftRecord())
    assert fresh.next() == 0
    told(fresh.record, [DENSE], 0.01)
    assert fresh.next() == 1


def test_fast_steps_that_are_no_faster_are_hardly_tried() -> None:
    answers = asked(limit(fast=10, dense=10, each=0), 3 * FIRST_PAUSE + 3)
    assert [index for index, tokens in enumerate(answers) if tokens] == [
        0,
        FIRST_PAUSE + 1,
        3 * FIRST_PAUSE + 2,
    ]
    assert sum(answers) == 3


def test_a_disturbed_measurement_is_soon_forgotten() -> None:
    costs = DraftCosts()
    for seconds in (5.0, 1.0, 5.0):
        costs.observe(1, seconds, fast=True)
    assert costs.fast == pytest.approx(1.8)


def test_cheap_fast_steps_and_high_acceptance_give_long_drafts() -> None:
    assert limit(fast=1, dense=10, each=0.1).next() > 8


def test_drafts_shorten_as_acceptance_falls() -> None:
    lengths = [limit(1, 10, 0.1, accepted, 20).next() for accepted in (19, 16, 12, 6)]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] < lengths[0]


def test_where_drafting_does_not_pay_it_pauses_longer_and_longer() -> None:
    answers = asked(limit(fast=9, dense=10, each=5), 3 * FIRST_PAUSE + 3)
    tries = [index for index, tokens in enumerate(answers) if tokens]
    assert tries == [0, FIRST_PAUSE + 1, 3 * FIRST_PAUSE + 2]
    assert {answers[index] for index in tries} == {PROBE_TOKENS}


def test_the_pause_outlives_the_turn() -> None:
    first = limit(fast=9, dense=10, each=5)
    assert asked(first, 1) == [PROBE_TOKENS]
    assert asked(DraftLimit(16, True, first.record), 1) == [0]


def test_turns_that_share_a_step_draft_as_many_tokens_each() -> None:
    """A probe is one of all rows, and the pause behind it counts steps, however many rows they have."""
    first = limit(fast=9, dense=10, each=5)
    rows = [first, *(DraftLimit(16, True, first.record) for _ in range(3))]
    assert [row.next() for row in rows] == [PROBE_TOKENS] * 4
    for left in reversed(range(FIRST_PAUSE)):
        first.record.decided = None
        assert [row.next() for row in rows] == [0] * 4
        assert first.record.costs.pause == left
    assert DraftLimit(2, True, first.record).next() == 0


def test_one_more_token_is_reckoned_to_take_as_long_as_those_before() -> None:
    """Else no draft would ever be longer than those that were tried, where a pass over many is as cheap."""
    costs = DraftCosts(fast=3.0, dense=11.5, verify={2: 11.6})
    assert costs.verifying(16) == pytest.approx(13.0)
    assert costs.verifying(1) == 11.5
    assert DraftLimit(15, True, DraftRecord(costs, 95, 100)).next() > 4
    costs.observe(8, 12.2, fast=False)
    assert costs.verifying(5) == pytest.approx(11.9)
    assert costs.verifying(9) == pytest.approx(12.3)


def test_a_pass_over_more_tokens_that_took_no_longer_shortens_what_one_is_reckoned_to_take() -> None:
    costs = DraftCosts(dense=11.5, verify={2: 12.0, 16: 9.0})
    assert costs.verifying(1) == costs.verifying(2) == costs.verifying(17) == 9.0


def test_costs_are_those_of_steps_of_as_many_rows() -> None:
    record = DraftRecord()
    told(record, [DENSE], 1.0)
    told(record, [DENSE] * 8, 3.0)
    assert record.costs.dense == 3.0
    told(record, [FAST] * 7, 2.0)
    assert (record.costs.dense, record.costs.fast) == (3.0, 2.0)
    told(record, [FAST], 0.5)
    assert (record.costs.dense, record.costs.fast) == (1.0, 0.5)


@pytest.mark.parametrize(
    ("works", "prompts"),
    [([DENSE, FAST], False), ([DENSE, Work((1, 2, 3))], False), ([DENSE, DENSE], True)],
    ids=["fast ones, too", "longer ones, too", "beside a prompt"],
)
def test_a_step_beside_others_tells_how_long_one_takes_until_one_alone_does(works, prompts) -> None:
    record = DraftRecord()
    told(record, works, 5.0, prompts=prompts)
    costs = record.costs
    sizes = {(work.fast, len(work.tokens)) for work in works}

    def known() -> list[float | None]:
        if len({fast for fast, _ in sizes}) > 1:
            return [costs.fast, costs.dense]
        most = max(tokens for _, tokens in sizes)
        return [costs.verifying(most)]

    assert set(known()) == {5.0}
    told(record, works, 4.0, prompts=prompts)
    assert set(known()) == {5.0}
    for fast, tokens in sizes:
        told(record, [Work((1,) * tokens, fast=fast)] * len(works), 3.0)
    assert set(known()) == {3.0}


def test_prompts_alone_tell_nothing() -> None:
    record = DraftRecord()
    told(record, [Work((1, 2, 3), prefill=True)], 5.0, prompts=True)
    assert record.costs == DraftCosts()


def test_a_fixed_limit_is_fixed() -> None:
    assert DraftLimit(7, False, DraftRecord(DraftCosts(pause=9))).next() == 7


@pytest.mark.parametrize(("accepted", "share"), [(4, 7.04 / 7.8), (0, 3.04 / 4.8), (2, 5.04 / 6.8)])
def test_acceptance_counts_tokens_up_to_the_first_refused(accepted: int, share: float) -> None:
    """Starting from 3.2 of 4, weighted 0.95, with a draft of 4."""
    fresh = DraftRecord()
    fresh.verified(4, accepted)
    assert fresh.acceptance == pytest.approx(share)


def decoded(drafts: DraftLimit, rows: int, acceptance: float, stall: float) -> float:
    """Seconds that ``rows`` take for some thousand tokens each, over what dense steps (5 s) take.

    A fast step takes 3 s, a pass over drafts 5, and every other pass ``stall`` more.
    """
    record, made, seconds, passes, chance = drafts.record, 0, 0.0, 0, random.Random(7)
    while made < 4000 * rows:
        count = drafts.next()
        for _ in range(count):
            told(record, [FAST] * rows, 3.0)
        works = [Work((1,) * (count + 1))] * rows
        record.step_over(works)
        for _ in range(rows):
            accepted = next((n for n in range(count) if chance.random() >= acceptance), count)
            made += accepted + 1
            if count:
                record.verified(count, accepted)
        passes += count > 0
        last = 5.0 + stall * (count > 0 and passes % 2)
        record.took(works, last)
        seconds += 3.0 * count + last
    return seconds / (5.0 * made / rows)


@pytest.mark.parametrize("rows", [1, 8])
def test_drafts_that_look_worth_it_and_are_not_are_given_up(rows: int) -> None:
    """What disturbs every other step is not in what steps are reckoned to take, but in what came of them."""
    assert decoded(DraftLimit(2, False, DraftRecord()), rows, acceptance=0.8, stall=8.0) > 1.2
    assert decoded(DraftLimit(16, True, DraftRecord()), rows, acceptance=0.8, stall=8.0) < 1.05


@pytest.mark.parametrize("rows", [1, 8])
def test_drafts_that_pay_go_on(rows: int) -> None:
    fixed = min(decoded(DraftLimit(n, False, DraftRecord()), rows, 0.95, 0.0) for n in (4, 8, 16))
    assert fixed < 0.8
    assert decoded(DraftLimit(16, True, DraftRecord()), rows, acceptance=0.95, stall=0.0) < 1.05 * fixed


def test_what_turns_get_that_do_not_draft_meanwhile_counts() -> None:
    record = DraftRecord()
    told(record, [DENSE] * 2, 1.0)
    for _ in range(JUDGED):
        told(record, [FAST, DENSE], 1.0)
        told(record, [DENSE, Work((1, 2))], 1.0)
        assert record.judged() is None
        record.verified(1, 1)
    assert record.judged() == pytest.approx(1.0)  # 2 of the one and 2 of the other in 2 seconds
    assert record.judged() is None


def test_turns_that_wait_would_have_had_tokens_too() -> None:
    record = DraftRecord()
    told(record, [DENSE] * 2, 1.0)
    for _ in range(JUDGED):
        told(record, [FAST], 1.0, turns=2)
        record.verified(1, 1)
    assert record.judged() == pytest.approx(1.0)


def test_steps_with_prompts_are_not_judged() -> None:
    record = DraftRecord()
    told(record, [DENSE], 1.0)
    told(record, [FAST, Work((1, 2))], 50.0, prompts=True)
    record.verified(1, 1)
    assert record.payoff == Payoff()
