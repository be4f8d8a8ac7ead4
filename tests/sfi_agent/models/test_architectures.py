"""Every family against transformers' own output, token for token in float32."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
import transformers

from sfi_agent import Runtime
from sfi_agent.errors import ModelError
from sfi_agent.evaluate.teacher import Reader
from sfi_agent.runtime.layout import Layout

PROMPT, TOKENS = 75, 20


def test_dense_is_transformers_own(tiny, of_family, each_family):
    runtime, prompt = of_family(each_family), tiny.prompt(PROMPT)
    expected = tiny.reference(runtime, prompt, TOKENS)
    assert len(set(expected)) > 5, "degenerate logits would hide mistakes"
    for chunk in (7, 512):
        dense = tiny.run(runtime, prompt, "dense", TOKENS, prefill_chunk=chunk)
        assert dense.token_ids == expected
        assert (dense.slow_steps, dense.fast_steps) == (TOKENS - 1, 0)


def test_verified_is_transformers_own(tiny, of_family, each_family, each_kernel):
    runtime, prompt = of_family(each_family), tiny.prompt(PROMPT)
    verified = tiny.run(runtime, prompt, "verified", TOKENS, kernel=each_kernel, adaptive_draft=False)
    assert verified.drafted > 10
    assert verified.token_ids == tiny.reference(runtime, prompt, TOKENS)


@pytest.mark.parametrize("budget", [1.0, PROMPT + TOKENS, 10**6])
def test_a_covering_budget_is_dense(tiny, of_family, each_family, budget):
    runtime, prompt = of_family(each_family), tiny.prompt(PROMPT)
    result = tiny.run(runtime, prompt, "sfi", TOKENS, budget=budget)
    assert result.token_ids == tiny.reference(runtime, prompt, TOKENS)


def test_a_memory_of_everything_is_dense(tiny, of_family, each_family, each_kernel, monkeypatch):
    """Fast steps whose memory holds every position, which a covering budget never makes."""
    whole = staticmethod(lambda policy, length: Layout(2, length - 9, length - 11))
    monkeypatch.setattr(Layout, "of", whole)
    runtime, prompt = of_family(each_family), tiny.prompt(PROMPT)
    result = tiny.run(runtime, prompt, "sfi", TOKENS, kernel=each_kernel, max_interval=5)
    assert result.fast_steps > TOKENS // 2
    assert result.token_ids == tiny.reference(runtime, prompt, TOKENS)


@pytest.mark.parametrize("budget", [1, 2, PROMPT - 1, 0.99, 0.01])
def test_a_budget_that_does_not_cover_runs(tiny, of_family, each_selector, budget):
    for family in ("llama", "gemma2", "gpt_oss", "deepseek_v3"):
        runtime = of_family(family)
        result = tiny.run(runtime, tiny.prompt(PROMPT), "sfi", 6, budget=budget, selector=each_selector)
        assert result.fast_steps > 0
        assert len(result.token_ids) == 6


def test_logits_of_every_family(tiny, of_family, each_family, each_kernel):
    """Read in uneven pieces, each position's logits are transformers'."""
    runtime, prompt = of_family(each_family), tiny.prompt(90)
    reader = Reader(runtime, runtime.registry.create("kernel", each_kernel))
    pieces = [prompt[:1], prompt[1:70], prompt[70:71], prompt[71:]]
    ours = torch.cat([reader.read(piece, wanted=len(piece)) for piece in pieces])
    with runtime.transformers() as model, torch.inference_mode():
        theirs = model(torch.tensor([prompt])).logits[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


class TestAModelThatWouldAnswerWrongIsRefused:
    """Families that take part in AttentionInterface, but not so that a KV cache of ours can serve them."""

    SHAPE: ClassVar = {
        "vocab_size": 259,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "pad_token_id": 2,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }

    def refusal(self, tiny, name: str) -> str:
        config = getattr(transformers, name + "Config")(**self.SHAPE)
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        with pytest.raises(ModelError) as error, Runtime.load(model, tokenizer=tiny.tokenizer) as runtime:
            tiny.run(runtime, tiny.prompt(20), "dense", 2)
        assert "\n" not in str(error.value)
        return str(error.value)

    def test_an_encoder(self, tiny):
        assert "not causal" in self.refusal(tiny, "Bert")

    def test_one_that_keeps_keyword_arguments_from_its_layers(self, tiny):
        assert "did not route its attention" in self.refusal(tiny, "Nemotron")

    def test_one_that_attends_twice_in_a_layer(self, tiny):
        assert "attends more than once" in self.refusal(tiny, "DiffLlama")
