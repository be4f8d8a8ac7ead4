"""Tokens drawn for many rows at a time are those that each row's sampler draws."""

from __future__ import annotations

import pytest
import torch
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from sfi_agent import Sampling
from sfi_agent.contracts import Draw, Drawing
from sfi_agent.contracts.drawing import noise, weighed
from sfi_agent.runtime.sampling import Sampler
from sfi_agent.runtime.step import Predicted

VOCABULARY, POSITIONS = 300, 40
SETTINGS = [
    {"temperature": 0.0},
    {"temperature": 1.0},
    {"temperature": 0.6, "seed": 2**63 + 11},
    {"temperature": 1.4, "seed": 2**64 + 5},
    {"temperature": 1e-40},
    {"temperature": 1e9},
    {"temperature": 1.0, "top_k": 7},
    {"temperature": 1.2, "top_p": 0.5},
    {"temperature": 1.2, "top_k": 10**12, "top_p": 0.9},
]


def seeded(index, settings):
    return Sampler(Sampling.of(**{"seed": index, **settings}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rows_are_drawn_as_each_alone(dtype):
    torch.manual_seed(0)
    samplers = [seeded(index, settings) for index, settings in enumerate(SETTINGS)]
    draws = [sampler.draw for sampler in samplers]
    found, wanted = [], []
    for position in range(1, POSITIONS):
        logits = (3 * torch.randn(len(samplers), VOCABULARY)).to(dtype)
        places = torch.full((len(samplers),), position)
        found.append(weighed(logits, Drawing.of(draws, places, VOCABULARY)).argmax(-1).tolist())
        alone = zip(samplers, logits, strict=True)
        wanted.append([sampler.choose(Predicted(row), [0] * position) for sampler, row in alone])
    assert found == wanted


@pytest.mark.parametrize(
    ("settings", "draws", "known"),
    [
        ({"temperature": 0.0}, False, True),
        ({"temperature": 0.0, "top_p": 0.9}, False, True),
        ({"temperature": 1.0}, True, True),
        ({"temperature": 1.0, "top_k": 3, "top_p": 0.9}, True, True),
        ({"temperature": 1.0, "repetition_penalty": 1.1}, False, False),
        ({"temperature": 0.0, "repetition_penalty": 1.1}, False, False),
    ],
)
def test_what_a_step_draws_itself(settings, draws, known):
    sampler = seeded(0, settings)
    assert (sampler.draw is not None, sampler.known) == (draws, known)


@pytest.mark.parametrize(
    ("top_k", "top_p"), [(0, 0.5), (0, 1e-46), (1, 1.0), (20, 1.0), (20, 0.8), (400, 0.99)]
)
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_may_come_is_what_transformers_leaves_and_its_equals(dtype, top_k, top_p, temperature):
    if dtype == torch.bfloat16 and 0 < top_k < VOCABULARY and top_p < 1:
        pytest.skip("transformers counts the probability of all that equal the last of top_k, too")
    torch.manual_seed(top_k)
    logits = (2 * torch.randn(50, VOCABULARY)).to(dtype)
    logits[0, ::2] = -torch.inf
    draw = Draw(temperature, 1, top_k, top_p)
    drawing = Drawing.of(50 * [draw], torch.arange(50), VOCABULARY)
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    left = warpers(torch.zeros(50, 1, dtype=torch.int64), logits.float()).isfinite()
    least = logits.float().masked_fill(~left, torch.inf).amin(-1, keepdim=True)
    assert torch.equal(weighed(logits, drawing).isfinite(), logits >= least)


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
