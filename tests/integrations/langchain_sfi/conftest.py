"""A random Llama of three layers with a tokenizer of printable characters: a real runtime, in no time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from langchain_sfi import SFIChatModel
from sfi_agent import Runtime
from sfi_agent.events import Event
from sfi_agent.hookspecs import hookimpl
from sfi_agent.registry import Registry

SPECIALS = ("<unk>", "<|start|>", "<|end|>")
TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


class Recorder:
    """A plugin that keeps every event."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    @hookimpl
    def sfi_on_event(self, event: Event) -> None:
        self.events.append(event)


@pytest.fixture(scope="session")
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(scope="session")
def runtime(recorder: Recorder) -> Iterator[Runtime]:
    tokenizer = _tokenizer()
    runtime = Runtime.load(
        _model(len(tokenizer)), tokenizer=tokenizer, device="cpu", registry=Registry(extra=[recorder])
    )
    yield runtime
    runtime.close()


@pytest.fixture
def chat(runtime: Runtime) -> SFIChatModel:
    """24 greedy tokens an answer, none of which ends it."""
    return SFIChatModel(runtime=runtime, max_tokens=24)


def _tokenizer() -> PreTrainedTokenizerFast:
    alphabet = ["Ġ", "Ċ", *(chr(code) for code in range(33, 127))]
    vocabulary = {token: number for number, token in enumerate([*SPECIALS, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in SPECIALS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<|start|>",
        eos_token="<|end|>",
        chat_template=TEMPLATE,
    )


def _model(vocabulary: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.2,  # wide enough that greedy answers do not repeat one token
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.lm_head.weight[: len(SPECIALS)] = 0  # never the best token: answers run to max_tokens
    return model
