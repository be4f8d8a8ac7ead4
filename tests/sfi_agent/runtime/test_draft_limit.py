"""How long drafts become: by acceptance and cost, on made-up costs."""

from __future__ import annotations

import pytest

from sfi_agent.runtime.draft import FIRST_PAUSE, PROBE_TOKENS, DraftLimit, DraftRecord


def limit(fast: float, dense: float, each: float, accepted: float = 19.0, tried: float = 20.0) -> DraftLimit:
    """A limit that knows its costs: ``each`` is what one more token of a verify pass adds to ``dense``."""
    verify = {tokens: dense + each * (tokens - 1) for tokens in (5, 17)}
    return DraftLimit(16, True, DraftRecord(fast, dense, verify, accepted, tried))


def test_it_measures_a_dense_step_and_then_a_fast_one_first() -> None:
    fresh = DraftLimit(16, True, DraftRecord())
    assert fresh.next() == 0
    fresh.record.observe(1, 0.01, fast=False)
    assert fresh.next() == 1


def test_fast_steps_that_are_no_faster_are_hardly_tried() -> None:
    slow = limit(fast=10, dense=10, each=0)
    answers = [slow.next() for _ in range(3 * FIRST_PAUSE + 3)]
    assert [index for index, tokens in enumerate(answers) if tokens] == [
        0,
        FIRST_PAUSE + 1,
        3 * FIRST_PAUSE + 2,
    ]
    assert sum(answers) == 3


def test_a_disturbed_measurement_is_soon_forgotten() -> None:
    record = DraftRecord()
    for seconds in (5.0, 1.0, 5.0):
        record.observe(1, seconds, fast=True)
    assert record.fast == pytest.approx(1.8)


def test_cheap_fast_steps_and_high_acceptance_give_long_drafts() -> None:
    assert limit(fast=1, dense=10, each=0.1).next() > 8


def test_drafts_shorten_as_acceptance_falls() -> None:
    lengths = [limit(1, 10, 0.1, accepted, 20).next() for accepted in (19, 16, 12, 6)]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] < lengths[0]


def test_where_drafting_does_not_pay_it_pauses_longer_and_longer() -> None:
    dear = limit(fast=9, dense=10, each=5)
    answers = [dear.next() for _ in range(3 * FIRST_PAUSE + 3)]
    tries = [index for index, tokens in enumerate(answers) if tokens]
    assert tries == [0, FIRST_PAUSE + 1, 3 * FIRST_PAUSE + 2]
    assert {answers[index] for index in tries} == {PROBE_TOKENS}


def test_the_pause_outlives_the_turn() -> None:
    first = limit(fast=9, dense=10, each=5)
    assert first.next() == PROBE_TOKENS
    assert DraftLimit(16, True, first.record).next() == 0


def test_a_fixed_limit_is_fixed() -> None:
    assert DraftLimit(7, False, DraftRecord(pause=9)).next() == 7


@pytest.mark.parametrize(("accepted", "share"), [(4, 6.88 / 7.6), (0, 2.88 / 4.6), (2, 4.88 / 6.6)])
def test_acceptance_counts_tokens_up_to_the_first_refused(accepted: int, share: float) -> None:
    """Starting from 3.2 of 4, weighted 0.9, with a draft of 4."""
    fresh = DraftLimit(16, True, DraftRecord())
    fresh.verified(4, accepted)
    assert fresh.record.acceptance == pytest.approx(share)
