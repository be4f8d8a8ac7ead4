"""Tokens drawn for many rows at a time are those that each alone draws, and transformers leaves."""

from __future__ import annotations

import pytest
import torch

from sfi_agent import Sampling
from sfi_agent.runtime.drawing import NUMBERS, Draw, noise, told, weighed
from sfi_agent.runtime.sampling import Sampler
from sfi_agent.runtime.step import Predicted

VOCABULARY, POSITIONS = 300, 40
SETTINGS = [
    {"temperature": 0.0},
    {"temperature": 1.0},
    {"temperature": 0.6, "seed": 2**63 + 11},
    {"temperature": 1e-40},
    {"temperature": 1.0, "top_k": 1},
    {"temperature": 1.4, "top_k": 7},
    {"temperature": 1.0, "top_k": 10**12},
    {"temperature": 0.9, "top_p": 0.5},
    {"temperature": 1.0, "top_p": 1e-6},
    {"temperature": 1.2, "top_p": 0.8, "top_k": 20},
]


def seeded(index, settings):
    return Sampler(Sampling.of(**{"seed": index, **settings}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rows_are_drawn_as_each_alone(dtype):
    for logits, numbers, places, samplers, prefix in cases(dtype):
        found = weighed(logits, *told(numbers), places, cuts=True).argmax(-1).tolist()
        each = zip(samplers, logits, strict=True)
        assert found == [sampler.choose(Predicted(row), prefix) for sampler, row in each]


def test_what_is_left_out_is_what_transformers_leaves_out():
    """Of logits that all differ: its own order of equals is not said."""
    for logits, numbers, places, samplers, _ in cases(torch.float32):
        found = weighed(logits, *told(numbers), places, cuts=True)
        for row, sampler in enumerate(samplers):
            if not sampler.greedy:
                scores = sampler.processors(torch.tensor([[0]]), logits[row : row + 1])
                seed = sampler.seed if sampler.seed < 2**63 else sampler.seed - 2**64
                drawn = scores.softmax(-1) / noise(torch.tensor([seed]), places[:1], VOCABULARY)
                torch.testing.assert_close(found[row], drawn[0])


def cases(dtype):
    """Logits of a row for each of the settings, and what they are drawn by."""
    torch.manual_seed(0)
    samplers = [seeded(index, settings) for index, settings in enumerate(SETTINGS)]
    each = [sampler._draw.numbers if sampler._draw else NUMBERS * (0,) for sampler in samplers]
    numbers = torch.tensor(each, dtype=torch.int32)
    for position in range(1, POSITIONS):
        logits = (3 * torch.randn(len(samplers), VOCABULARY)).to(dtype)
        yield logits, numbers, torch.full((len(samplers),), position), samplers, [0] * position


def test_rows_that_leave_nothing_out_need_no_order():
    torch.manual_seed(0)
    logits, places = torch.randn(3, VOCABULARY), torch.tensor([5, 6, 7])
    draws = [Draw(0.7, 0, 1.0, 3).numbers, NUMBERS * (0,), Draw(1.0, 0, 1.0, 4).numbers]
    numbers = torch.tensor(draws, dtype=torch.int32)
    torch.testing.assert_close(
        weighed(logits, *told(numbers), places, cuts=False),
        weighed(logits, *told(numbers), places, cuts=True),
    )


def test_what_is_said_of_a_draw():
    assert not Draw(1.0, 0, 1.0, 0).cuts
    assert Draw(1.0, 3, 1.0, 0).cuts
    assert Draw(1.0, 0, 0.9, 0).cuts


@pytest.mark.parametrize(
    ("settings", "draws", "known"),
    [
        ({"temperature": 0.0}, False, True),
        ({"temperature": 1.0}, True, True),
        ({"temperature": 1.0, "top_k": 3}, False, False),
        ({"temperature": 1.0, "top_p": 0.9}, False, False),
        ({"temperature": 1.0, "repetition_penalty": 1.1}, False, False),
        ({"temperature": 0.0, "repetition_penalty": 1.1}, False, False),
    ],
)
def test_what_a_step_draws_itself(settings, draws, known):
    sampler = seeded(0, settings)
    assert (sampler.draw is not None, sampler.known) == (draws, known)


def test_noise_is_exponential_and_of_its_own_at_every_place():
    seeds, positions = torch.tensor([0, 0, 1, 2**62]), torch.tensor([1, 2, 1, 1])
    found = noise(seeds, positions, 50_000)
    assert found.min() > 0
    assert found.isfinite().all()
    for row in found:
        for share in (0.01, 0.1, 0.5, 0.9, 0.99):
            at = -torch.log1p(torch.tensor(-share))
            assert abs(float((row < at).float().mean()) - share) < 4 * (share * (1 - share) / 50_000) ** 0.5
    assert torch.corrcoef(found).fill_diagonal_(0).abs().max() < 4 / 50_000**0.5
    assert torch.equal(found[2:3], noise(seeds[2:3], positions[2:3], 50_000))
