"""When a difference between two outputs counts as rounding."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sfi_agent import Policy, Runtime
from sfi_agent.evaluate.compare import last_logits, measure_tie
from sfi_agent.evaluate.transformers_run import transformers_run


@pytest.mark.parametrize("length", [1, 2, 40])
def test_in_float32_a_clear_preference_is_no_tie(tiny: Any, length: int) -> None:
    with tiny.runtime() as runtime:
        logits = last_logits(runtime, tiny.prompt(length), Policy()).logits
        second, worst = int(logits.topk(2).indices[1]), int(logits.argmin())
        found, far = (measure_tie(runtime, tiny.prompt(length), Policy(), 3, at) for at in (second, worst))
    assert found.index == 3
    assert found.rounding < 1e-4 < found.gap < far.gap
    assert not found.tie


def test_in_bfloat16_the_rounding_is_not_taken_from_one_lucky_position(tiny: Any) -> None:
    """Some processors round so rarely that single positions mostly show nothing."""
    model = tiny.model().to(torch.bfloat16)
    with Runtime.load(model, tokenizer=tiny.tokenizer) as rounded:
        found = [measure_tie(rounded, tiny.prompt(60, seed=seed), Policy(), 0, 5) for seed in range(8)]
    assert sum(each.rounding > 1e-3 for each in found) > 4


def test_two_equal_best_tokens_are_a_tie(tiny: Any) -> None:
    model = tiny.model()
    head = model.get_output_embeddings().weight
    with tiny.runtime() as runtime:
        best = runtime.generate(tiny.prompt(20), policy=Policy(mode="dense")).token_ids[0]
    other = (best + 1) % len(head)
    with torch.no_grad():
        head[other] = head[best]
    with Runtime.load(model, tokenizer=tiny.tokenizer) as runtime:
        assert measure_tie(runtime, tiny.prompt(20), Policy(), 0, other).tie
        assert not measure_tie(runtime, tiny.prompt(20), Policy(), 0, (best + 2) % len(head)).tie


def test_transformers_runs_without_the_checkpoints_penalty(tiny: Any) -> None:
    model = tiny.model()
    model.generation_config.repetition_penalty = 5.0
    with Runtime.load(model, tokenizer=tiny.tokenizer) as runtime:
        sampling = tiny.sampling(20)
        theirs = transformers_run(runtime, tiny.prompt(20), sampling).token_ids
        ours = runtime.generate(tiny.prompt(20), policy=Policy(mode="dense"), sampling=sampling).token_ids
    assert theirs == ours
    assert model.generation_config.repetition_penalty == 5.0
