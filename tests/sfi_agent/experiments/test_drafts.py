"""Drafts are counted as the runtime counts them, and compared with dense output."""

from __future__ import annotations

import pytest

from sfi_agent import Registry, Runtime
from sfi_agent.experiments.measure.base import Reading
from sfi_agent.experiments.measure.drafts import Drafts, DraftsMeasurement
from sfi_agent.experiments.plots.accepted import survival

TOKENS = 40


@pytest.fixture
def measure(tiny):
    """``measure(**policy)`` on a runtime whose registry is the test's own."""
    with tiny.runtime(registry=Registry()) as runtime:
        reading = Reading("random", tuple(tiny.prompt(60 + TOKENS)), 60)
        measurement, seen = DraftsMeasurement(), []
        shared = measurement.prepare(runtime, reading, lambda *at: seen.append(at))
        assert seen[-1] == (TOKENS, TOKENS)

        def of(**settings):
            policy = tiny.policy(adaptive_draft=False, **settings)
            return measurement.measure(runtime, reading, policy, shared, lambda *at: None)

        yield of


def test_a_small_memory_drafts_badly_and_gives_the_same(measure):
    found = measure(budget=8, max_draft=4)
    assert found.equal
    assert (found.first_difference, found.tie, found.answer_tokens) == (None, None, TOKENS)
    assert found.mean_accepted < 3.5
    assert len(found.accepted) <= 5
    assert sum(found.accepted) == found.drafts
    assert sum(n * count for n, count in enumerate(found.accepted)) == pytest.approx(
        found.mean_accepted * found.drafts
    )
    assert found.tokens_per_second > 0
    assert found.dense_tokens_per_second > 0


def test_each_policy_has_its_own_counts(measure):
    first, _, again = measure(budget=8), measure(budget=50), measure(budget=8)
    assert (again.accepted, again.drafts) == (first.accepted, first.drafts)


def test_a_model_that_needs_no_attention_accepts_to_the_limit(tiny):
    model = tiny.model()
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.data.zero_()
    policy = tiny.policy(budget=8, max_draft=4, adaptive_draft=False, boundaries=(), max_interval=1000)
    reading = Reading("random", tuple(tiny.prompt(60 + TOKENS)), 60)
    with Runtime.load(model, tokenizer=tiny.tokenizer, registry=Registry()) as runtime:
        measurement = DraftsMeasurement()
        shared = measurement.prepare(runtime, reading, lambda *at: None)
        found = measurement.measure(runtime, reading, policy, shared, lambda *at: None)
    assert found.equal
    # The prefill gives the first token, each draft of 4 five more, and the last has room for 3.
    assert (found.drafts, found.accepted, found.accepted_share) == (8, (0, 0, 0, 1, 7), 1.0)
    assert found.mean_accepted == pytest.approx((7 * 4 + 3) / 8)
    assert (found.slow_steps, found.fast_steps, found.tokens_per_pass) == (8, 31, 5)


def test_a_covering_memory_drafts_nothing(measure):
    found = measure(budget=1.0)
    assert (found.drafts, found.accepted, found.mean_accepted, found.accepted_share) == (0, (), 0.0, 0.0)
    assert found.tokens_per_pass == pytest.approx(TOKENS / (TOKENS - 1))


def test_what_differs_is_located(tiny, monkeypatch):
    with tiny.runtime(registry=Registry()) as runtime:
        reading = Reading("random", tuple(tiny.prompt(60 + TOKENS)), 60)
        measurement = DraftsMeasurement()
        shared = measurement.prepare(runtime, reading, lambda *at: None)
        wrong = list(shared.token_ids)
        wrong[7] = (wrong[7] + 1) % 200
        other = shared.__class__(**{**vars(shared), "token_ids": tuple(wrong)})
        found = measurement.measure(runtime, reading, tiny.policy(), other, lambda *at: None)
    assert (found.equal, found.first_difference, found.tie) == (False, 7, False)


def test_survival():
    drafts = dict.fromkeys(Drafts.__dataclass_fields__, 0)
    assert survival(Drafts(**{**drafts, "accepted": (1, 0, 2, 1)})) == [1, 0.75, 0.75, 0.25]
    assert survival(Drafts(**{**drafts, "accepted": ()})) == [1]
