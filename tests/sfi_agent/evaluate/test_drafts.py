"""Drafts are counted as the runtime counts them, and compared with dense output."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sfi_agent import Registry, Runtime
from sfi_agent.evaluate.beside import DenseBeside
from sfi_agent.evaluate.drafts import Drafts, drafts
from sfi_agent.experiments.plots.accepted import survival

TOKENS = 40


@pytest.fixture
def measure(tiny):
    """``measure(**policy)`` on a runtime whose registry is the test's own."""
    with tiny.runtime(registry=Registry()) as runtime:
        beside = DenseBeside(runtime)

        def of(sampling=None, on_tokens=None, **settings):
            policy = tiny.policy(adaptive_draft=False, **settings)
            return drafts(beside, tiny.prompt(60), policy, sampling or tiny.sampling(TOKENS), on_tokens)

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


def test_drawn_answers_are_those_of_dense_attention_and_others_than_greedy(tiny, measure):
    """The verified answer is compared with the dense one of the same seed, token for token."""
    drawn = [tiny.sampling(TOKENS, temperature=1.0, seed=seed) for seed in (0, 1)]
    greedy, *warm = measure(budget=20), *(measure(sampling, budget=20) for sampling in drawn)
    assert all(found.equal for found in (greedy, *warm))
    assert len({found.accepted for found in (greedy, *warm)}) == 3


def test_the_growing_answers_are_told(measure):
    seen = []
    measure(on_tokens=seen.append, budget=8)
    assert seen == [*range(1, TOKENS + 1)] * 2


def test_a_model_that_needs_no_attention_accepts_to_the_limit(tiny):
    model = tiny.model()
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.data.zero_()
    policy = tiny.policy(budget=8, max_draft=4, adaptive_draft=False, boundaries=(), max_interval=1000)
    with Runtime.load(model, tokenizer=tiny.tokenizer, registry=Registry()) as runtime:
        found = drafts(DenseBeside(runtime), tiny.prompt(60), policy, tiny.sampling(TOKENS))
    assert found.equal
    # The prefill gives the first token, each draft of 4 five more, and the last has room for 3.
    assert (found.drafts, found.accepted, found.accepted_share) == (8, (0, 0, 0, 1, 7), 1.0)
    assert found.mean_accepted == pytest.approx((7 * 4 + 3) / 8)
    assert (found.slow_steps, found.fast_steps, found.tokens_per_pass) == (8, 31, 5)


def test_a_covering_memory_drafts_nothing(measure):
    found = measure(budget=1.0)
    assert (found.drafts, found.accepted, found.mean_accepted, found.accepted_share) == (0, (), 0.0, 0.0)
    assert found.tokens_per_pass == pytest.approx(TOKENS / (TOKENS - 1))


class Altered(DenseBeside):
    """The eighth token of verified mode's answer becomes another."""

    def other(self, token):
        return (token + 1) % 200

    def ask(self, *arguments):
        pair = super().ask(*arguments)
        ids = list(pair.policy.token_ids)
        ids[7] = self.other(ids[7])
        return replace(pair, policy=replace(pair.policy, token_ids=tuple(ids)))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_differs_is_located(tiny, temperature):
    sampling = tiny.sampling(TOKENS, temperature=temperature, seed=5)
    with tiny.runtime(registry=Registry()) as runtime:
        found = drafts(Altered(runtime), tiny.prompt(60), tiny.policy(), sampling)
    assert (found.equal, found.first_difference, found.tie) == (False, 7, False)


def test_a_token_that_is_as_good_is_a_tie(tiny):
    """Every token has a twin with the same logit, one of which each position must choose."""
    model = tiny.model()
    head = model.get_output_embeddings().weight
    with torch.no_grad():
        head[100:200] = head[:100]
    with Runtime.load(model, tokenizer=tiny.tokenizer, registry=Registry()) as runtime:
        beside = Altered(runtime)
        beside.other = lambda token: (token + 100) % 200
        found = drafts(beside, tiny.prompt(60), tiny.policy(), tiny.sampling(TOKENS))
    assert (found.first_difference, found.tie) == (7, True)


def test_survival():
    none = dict.fromkeys(Drafts.__dataclass_fields__, 0)
    assert survival(Drafts(**{**none, "accepted": (1, 0, 2, 1)})) == [1, 0.75, 0.75, 0.25]
    assert survival(Drafts(**{**none, "accepted": ()})) == [1]
