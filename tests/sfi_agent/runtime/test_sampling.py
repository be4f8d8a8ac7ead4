"""Verified sampling draws dense attention's tokens, seed for seed, and so its distribution."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from sfi_agent import Sampling
from sfi_agent.errors import SettingError
from sfi_agent.runtime.layout import Layout
from sfi_agent.runtime.sampling import Sampler
from sfi_agent.runtime.step import Predicted

SETTINGS = [
    {"temperature": 1.0},
    {"temperature": 0.5},
    {"temperature": 1.3, "top_p": 0.8},
    {"temperature": 1.0, "top_k": 5},
    {"temperature": 1.0, "repetition_penalty": 1.5},
    {"temperature": 0.9, "top_p": 0.9, "top_k": 20, "repetition_penalty": 1.2},
    {"temperature": 0.0, "repetition_penalty": 1.5},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_verified_gives_dense_tokens_seed_for_seed(tiny, shared, settings):
    for seed in range(3):
        sampling = tiny.sampling(24, seed=seed, **settings)
        runs = {
            mode: shared.generate(
                tiny.prompt(60), policy=tiny.policy(mode, adaptive_draft=False), sampling=sampling
            )
            for mode in ("dense", "verified")
        }
        assert runs["verified"].token_ids == runs["dense"].token_ids
        assert runs["verified"].drafted > 0


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_draft_draws_with_the_noise_and_the_prefix_of_its_check(tiny, shared, settings, monkeypatch):
    """Where the memory holds everything, what is drafted is what dense attention draws: all is accepted."""
    whole = staticmethod(lambda policy, length: Layout(2, length - 9, length - 11))
    monkeypatch.setattr(Layout, "of", whole)
    policy = tiny.policy("verified", adaptive_draft=False, max_draft=5)
    result = shared.generate(tiny.prompt(60), policy=policy, sampling=tiny.sampling(24, seed=1, **settings))
    assert result.drafted == result.accepted > 10


@pytest.mark.parametrize("penalty", [0.7, 1.3])
def test_the_penalty_is_transformers_own_whatever_was_drafted_meanwhile(penalty):
    sampler = Sampler(Sampling.of(temperature=0.0, repetition_penalty=penalty))
    processor = RepetitionPenaltyLogitsProcessor(penalty)
    generator = torch.Generator().manual_seed(3)

    def tokens(count):
        return torch.randint(0, 60, (count,), generator=generator).tolist()

    prefix = tokens(20)
    for _ in range(30):
        for draft in ([], tokens(1), tokens(4), []):
            logits = torch.randn(60, generator=generator)
            wanted = processor(torch.tensor([prefix + draft]), logits[None].clone()).argmax()
            assert sampler.choose(Predicted(logits), prefix, draft) == wanted
        prefix += tokens(2)


class Watched(list):
    """Notes how many of its items are looked at."""

    looked_at = 0

    def __iter__(self):
        self.looked_at += len(self)
        return super().__iter__()

    def __getitem__(self, key):
        found = super().__getitem__(key)
        self.looked_at += len(found) if isinstance(key, slice) else 1
        return found


def test_a_penalty_looks_at_each_token_of_the_context_once():
    sampler = Sampler(Sampling.of(temperature=1.0, seed=0, repetition_penalty=1.3))
    prefix = Watched(range(5000))
    for token in range(10):
        sampler.choose(Predicted(torch.randn(6000)), prefix, [1, 2])
        sampler.choose(Predicted(torch.randn(6000)), prefix)
        prefix.append(token)
    assert prefix.looked_at == len(prefix) - 1


def test_a_draft_copies_no_token_before_it(tiny, shared, monkeypatch):
    prefixes, choose = [], Sampler.choose

    def watched(self, predicted, prefix, *draft):
        prefixes.append(prefix)
        return choose(self, predicted, prefix, *draft)

    monkeypatch.setattr(Sampler, "choose", watched)
    policy = tiny.policy("verified", adaptive_draft=False)
    assert shared.generate(tiny.prompt(60), policy=policy, sampling=tiny.sampling(12)).drafted > 0
    assert all(prefix is prefixes[0] for prefix in prefixes)


def test_seeds_matter(tiny, shared):
    def sample(**settings):
        sampling = tiny.sampling(16, temperature=1.0, **settings)
        return shared.generate(tiny.prompt(30), policy=tiny.policy("dense"), sampling=sampling).token_ids

    assert sample(seed=5) == sample(seed=5)
    assert len({sample(seed=seed) for seed in range(6)}) == 6
    assert sample() != sample(), "without a seed every run draws its own"


CASES = 1500
SCALE = torch.tensor([2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, -8.0])


@pytest.mark.parametrize(
    "settings", [{"temperature": 1.0}, {"temperature": 0.7, "top_p": 0.9}, {"temperature": 2.0, "top_k": 4}]
)
def test_the_sampler_has_the_distribution_of_the_logits(settings):
    """Chi-square over seeds and positions; the expected shares by transformers' own processors."""
    sampler = Sampler(Sampling.of(seed=0, **settings))
    warpers = LogitsProcessorList([TemperatureLogitsWarper(settings["temperature"])])
    warpers += [TopKLogitsWarper(settings["top_k"])] if "top_k" in settings else []
    warpers += [TopPLogitsWarper(settings["top_p"])] if "top_p" in settings else []
    expected = warpers(torch.tensor([[0]]), SCALE[None])[0].softmax(-1)
    by_seed = [
        Sampler(Sampling.of(seed=seed, **settings)).choose(Predicted(SCALE), [0] * 7) for seed in range(CASES)
    ]
    by_position = [sampler.choose(Predicted(SCALE), [0] * position) for position in range(1, CASES)]
    for drawn in (by_seed, by_position):
        assert chi_square(Counter(drawn), expected, len(drawn)) < 24.3  # 0.001 at 7 degrees of freedom


def chi_square(counts: Counter, expected: torch.Tensor, total: int) -> float:
    assert all(expected[token] > 0 for token in counts)
    return sum((counts[i] - total * p) ** 2 / (total * p) for i, p in enumerate(expected.tolist()) if p > 0)


def test_verified_sampling_has_the_dense_distribution(tiny):
    """The joint distribution of two drafted tokens over a vocabulary of four, beside dense attention's."""
    with tiny.runtime(vocab_size=4, pad_token_id=None, eos_token_id=None, bos_token_id=None) as runtime:
        runtime.model.lm_head.weight.data.mul_(0.5)
        prompt, policy = [0, 1, 2, 3] * 4, tiny.policy("verified", budget=6, adaptive_draft=False)
        seeds, drafted, accepted = 250, 0, 0
        counts: Counter = Counter()
        for seed in range(seeds):
            sampling = tiny.sampling(4, temperature=1.0, seed=seed)
            result = runtime.generate(prompt, policy=policy, sampling=sampling)
            counts[result.token_ids[1] * 4 + result.token_ids[2]] += 1
            drafted, accepted = drafted + result.drafted, accepted + result.accepted
        expected = torch.zeros(16)
        with runtime.transformers() as model, torch.inference_mode():

            def after(tokens):
                return model(torch.tensor([[*prompt, *tokens]])).logits[0, -1].softmax(-1).tolist()

            for first, p in enumerate(after([])):
                for second, q in enumerate(after([first])):
                    for third, r in enumerate(after([first, second])):
                        expected[second * 4 + third] += p * q * r
    assert 0 < accepted < drafted, "a draft that is never refused proves nothing"
    assert chi_square(counts, expected, seeds) < 37.7  # 0.001 at 15 degrees of freedom


@pytest.mark.parametrize("temperature", [1e-9, 1e-30, 1e-45, 1e9])
def test_extreme_temperatures_give_tokens(temperature):
    sampler = Sampler(Sampling.of(temperature=temperature, seed=0, top_k=3))
    chosen = {sampler.choose(Predicted(SCALE.flip(0) * 100), [0] * n) for n in range(1, 40)}
    assert chosen == ({7} if temperature < 1 else {5, 6, 7})


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -1.0])
def test_a_temperature_that_is_no_number_is_refused(wrong):
    with pytest.raises(SettingError, match="temperature"):
        Sampling.of(temperature=wrong)
