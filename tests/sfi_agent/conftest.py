"""Tiny random models of many families, a byte-level tokenizer, and every registered name."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from sfi_agent import Policy, Registry, Runtime, Sampling
from sfi_agent.runtime import garbage
from sfi_agent.runtime.result import TurnResult

WINDOW = 512
SPECIAL = ("<bos>", "<eos>", "<pad>")
TEMPLATE = "{% for m in messages %}<bos>{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
SHAPE: dict[str, Any] = {
    "vocab_size": 259,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": WINDOW,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
SLIDING: dict[str, Any] = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 12}
SCALED: dict[str, Any] = {"query_pre_attn_scalar": 16, "tie_word_embeddings": False}
EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2}
LATENT: dict[str, Any] = {
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "head_dim": 8,
    "n_group": 1,
    "topk_group": 1,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "phi3": ("Phi3", {"head_dim": 8, "sliding_window": None}),
    "gemma2": ("Gemma2", {**SLIDING, "attn_logit_softcapping": 4.0, **SCALED}),
    "gemma3": ("Gemma3", {**SLIDING, **SCALED}),
    "gpt_oss": ("GptOss", {**SLIDING, **EXPERTS, "num_local_experts": 4}),
    "mixtral": ("Mixtral", {**EXPERTS, "num_local_experts": 4, "sliding_window": None}),
    "deepseek_v3": ("DeepseekV3", {**LATENT, **EXPERTS}),
    "afmoe": ("Afmoe", {**SLIDING, **EXPERTS, "num_experts": 4, "moe_intermediate_size": 32}),
}
"""Config class (less ``Config``) and what a family has beyond ``SHAPE``. Values and keys of DeepSeek's
latent attention differ in width; AFMoE views what attention returns, so that has to be contiguous."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each byte, and three special ones."""
    alphabet = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    inner = Tokenizer(models.BPE(vocab={text: id for id, text in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


class Tiny:
    """What a test needs of a model, in milliseconds."""

    window = WINDOW
    tokenizer = build_tokenizer()

    def config(self, family: str = "llama", **changes: Any) -> Any:
        """The configuration of a family, with ``changes``."""
        name, extra = FAMILIES[family]
        known = getattr(transformers, name + ("TextConfig" if family == "gemma3" else "Config"))
        return known(**{**SHAPE, **extra, **changes})

    def model(self, family: str = "llama", *, seed: int = 0, **changes: Any) -> PreTrainedModel:
        """A random model whose logits differ by about 1, so that tokens vary and ties do not happen."""
        config = self.config(family, **changes)
        if getattr(config, "attn_logit_softcapping", None):  # transformers' sdpa < 5.18 drops the softcap
            config._attn_implementation = "eager"
        made = getattr(transformers, FAMILIES[family][0] + "ForCausalLM")(config)
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in made.named_parameters():
            if parameter.dim() > 1 or "sinks" in name or "bias" in name:
                spread = 1.0 if "sinks" in name else 0.15
                parameter.data.normal_(0, spread, generator=generator)
        return made.float().eval()

    def runtime(self, family: str = "llama", *, registry: Registry | None = None, **changes: Any) -> Runtime:
        """A runtime on a model of its own; a context manager, too."""
        return Runtime.load(self.model(family, **changes), tokenizer=self.tokenizer, registry=registry)

    def prompt(self, length: int, seed: int = 0) -> list[int]:
        """Random token ids, none special."""
        source = random.Random(seed)
        return [source.randrange(len(SPECIAL), SHAPE["vocab_size"]) for _ in range(length)]

    def policy(self, mode: str = "sfi", **settings: Any) -> Policy:
        """A small memory and frequent boundaries, so that short runs have every kind of step."""
        small = {
            "dense_below": 0,
            "repair": False,
            "selector": "paper",
            "budget": 24,
            "recent": 6,
            "sink": 2,
            "min_gap": 0,
            "max_interval": 7,
        }
        return Policy.of(mode=mode, **{**small, "prefill_chunk": 32, **settings})

    def sampling(self, tokens: int = 32, **settings: Any) -> Sampling:
        """Greedy, and on past end tokens, which random models give at random."""
        return Sampling.of(**{"max_new_tokens": tokens, "ignore_eos": True, **settings})

    def run(
        self, runtime: Runtime, prompt: list[int], mode: str = "sfi", tokens: int = 32, **settings: Any
    ) -> TurnResult:
        """A greedy turn without a session."""
        policy = self.policy(mode, **settings)
        return runtime.generate(prompt, policy=policy, sampling=self.sampling(tokens))

    def reference(self, runtime: Runtime, prompt: list[int], tokens: int = 32) -> tuple[int, ...]:
        """What transformers' own ``generate`` gives."""
        ids = torch.tensor([prompt])
        with runtime.transformers() as model:
            model.generation_config.eos_token_id = None
            full = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False
            )
        return tuple(full[0, len(prompt) :].tolist())


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    return Tiny()


@pytest.fixture(scope="session")
def shared(tiny: Tiny) -> Any:
    """A runtime on a tiny Llama for tests that leave no trace on it."""
    with tiny.runtime() as runtime:
        yield runtime


@pytest.fixture
def runtime(tiny: Tiny) -> Any:
    """A runtime of the test's own, on a tiny Llama."""
    with tiny.runtime() as runtime:
        yield runtime


@pytest.fixture(scope="session")
def of_family(tiny: Tiny) -> Any:
    """``of_family(name)``: a runtime on a tiny model of a family, made once."""
    made: dict[str, AbstractContextManager[Runtime]] = {}

    def get(family: str) -> Any:
        if family not in made:
            made[family] = tiny.runtime(family)
        return made[family]

    return get


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """``apart()`` waits until the turns of streams that were collected are over."""
    threads: list[threading.Thread] = []

    def start(call: Callable[[], None]) -> None:
        threads.append(threading.Thread(target=garbage._logged, args=(call,), daemon=True))
        threads[-1].start()

    def wait() -> None:
        for thread in threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in threads), "one waits for ever"

    monkeypatch.setattr("sfi_agent.runtime.request.apart", start)
    return wait


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """An argument named ``each_family``, ``each_selector``, ... runs the test on all of them."""
    registry = Registry()
    kinds: dict[str, Callable[[], Any]] = {
        "each_family": lambda: sorted(FAMILIES),
        "each_selector": lambda: sorted(registry.entries("selector")),
        "each_boundary": lambda: sorted(registry.entries("boundary")),
        "each_kernel": lambda: [
            name
            for name in sorted(registry.entries("kernel"))
            if registry.create("kernel", name).unavailable(torch.device("cpu")) is None
        ],
    }
    for argument, names in kinds.items():
        if argument in metafunc.fixturenames:
            metafunc.parametrize(argument, names())
