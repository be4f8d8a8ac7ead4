"""Models of well-known shapes with random weights, and rows whose contexts are random keys and values.

What such a model says means nothing: only its speed is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from sfi_agent.contracts import LayerSpec
from sfi_agent.registry import default_registry
from sfi_agent.runtime import attention
from sfi_agent.runtime.pages import PAGE, PagedCache
from sfi_agent.runtime.pool import PagePool
from sfi_agent.runtime.remembered import Chosen, Fetched, Listed
from sfi_agent.runtime.replay import Replayer
from sfi_agent.runtime.row import Row
from sfi_agent.runtime.sparse import SparseMemory
from sfi_agent.runtime.step import Work

SELECTED, RECENT, SINK = 2048, 256, 4
"""Of a fast step: positions remembered for each KV head, and tokens since the memory was chosen."""

REPLAYS = 5
"""Of a graph, for one time."""


def timed(run: Callable[[], object], count: int = REPLAYS) -> float:
    """Milliseconds of one run on the device."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(count):
        run()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / count


def large_copy() -> tuple[Callable[[], float], int]:
    """What copies more than any cache holds and gives the milliseconds, and the bytes read and written.

    It is launched and not replayed: in a graph a copy is slower.
    """
    source = torch.empty(2**30, dtype=torch.int32, device="cuda").random_()
    target = torch.empty_like(source)
    return lambda: timed(lambda: target.copy_(source)), 2 * source.nbytes


def config(name: str) -> Any:
    """The configuration of a shape."""
    if name == "llama-3-8b":
        return LlamaConfig(
            vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
            num_attention_heads=32, num_key_value_heads=8, head_dim=128, max_position_embeddings=2**20,
        )  # fmt: skip
    sizes = {"qwen3-4b": (2560, 9728, 36, 32), "qwen3-0.6b": (1024, 3072, 28, 16)}
    hidden, inner, layers, heads = sizes[name]
    return Qwen3Config(
        vocab_size=151936, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=8, head_dim=128, max_position_embeddings=2**20,
        tie_word_embeddings=True,
    )  # fmt: skip


def random_model(name: str) -> PreTrainedModel:
    """A model of this shape on the GPU, bfloat16."""
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config(name), dtype=torch.bfloat16).eval()
    model.requires_grad_(False)
    return model


def plain_tokenizer(size: int) -> PreTrainedTokenizerBase:
    """A word for every token id."""
    words = {f"w{id}": id for id in range(size)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="w0")), eos_token="w0"
    )


@dataclass
class Rig:
    """A model, a pool full of random numbers, and rows in it."""

    model: PreTrainedModel
    pool: PagePool
    replayer: Replayer

    @classmethod
    def of(cls, model: PreTrainedModel, tokens: int) -> Rig:
        """With room for so many tokens of context; has the model on attention ``sfi``."""
        attention.register()
        model.set_attn_implementation(attention.NAME)
        shape = model.config
        like = torch.empty(shape.num_key_value_heads, shape.head_dim, dtype=model.dtype, device=model.device)
        specs = shape.num_hidden_layers * [LayerSpec(shape.head_dim**-0.5)]
        pool = PagePool(tokens // PAGE + 2, specs, (like, like))
        for store in (pool.keys, pool.values):
            for layer in store:
                layer.normal_()
        pool.code_with(default_registry().create("selector", "index").coding())
        pool.codes.random_(256)
        pool.scales.uniform_()
        return cls(model, pool, Replayer(model, pool, shape.max_position_embeddings))

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights that a step reads: all but an input embedding that is not the output's."""
        read = {id(part): part.nbytes for part in self.model.parameters()}
        if not self.model.config.tie_word_embeddings:
            read.pop(id(self.model.get_input_embeddings().weight))
        return sum(read.values())

    def position_bytes(self) -> int:
        """Bytes of one position's keys and values in all layers."""
        return self.pool.page_bytes // PAGE

    def code_bytes(self) -> int:
        """Bytes of one position's codes in all layers."""
        return (self.pool.codes.nbytes + self.pool.scales.nbytes) // self.pool.pages // PAGE

    def row(self, context: int) -> Row:
        """A context of random keys and values."""
        row = Row(kv=PagedCache(self.pool), capture=False)
        row.kv.prepare(context)
        row.kv.length = row.kv.exact = context
        return row

    def listed(self, row: Row) -> SparseMemory:
        """A memory of random positions, as a selector would have left it RECENT tokens ago."""
        length, heads = row.kv.length, self.pool.keys.shape[2]
        tail = length - RECENT
        places = row.kv.places(0, tail).int()
        chosen = torch.rand(heads, tail, device=places.device).topk(SELECTED).indices.sort().values
        lists = places[chosen].expand(len(row.kv.windows), -1, -1).contiguous()
        pages = Listed(tail, row.kv.windows, self.pool.position_bytes, lists, Fetched((lists >= 0).sum()))
        return SparseMemory(length, SELECTED + RECENT, {}, length, pages)

    def chosen(self, row: Row) -> SparseMemory:
        """A memory that is chosen at every step, by random codes."""
        length, tail = row.kv.length, row.kv.length - RECENT
        row.kv.coded = tail
        geometry = tail, row.kv.windows, self.pool.position_bytes
        pages = Chosen(*geometry, self.pool.coding, SINK, SELECTED - SINK, row.kv.code_bytes(tail - SINK))
        return SparseMemory(length, SELECTED + RECENT, {}, length, pages)

    def asked(self, row: Row, tokens: int) -> None:
        """Give a row random queries of its latest tokens, as slow steps would have left them."""
        shape, start = self.model.config, row.kv.length - tokens
        size = shape.num_attention_heads, shape.head_dim
        like = torch.empty(size, dtype=self.model.dtype, device=self.model.device)
        row.queries.forget(start, tokens)
        row.queries.entered(start, tokens, row.kv.windows, like).normal_()
        row.queries.commit(start, tokens)

    def jobs(
        self, rows: list[Row], tokens: Sequence[int], *, evidence: int = 0, every: bool = False
    ) -> list[Any]:
        """Work for the engine: so many tokens of each row, of which ``evidence`` queries are kept.

        Rows that have a memory do a fast step. Logits are wanted of each row's last token, or of every one.
        """
        kernel = default_registry().create("kernel", "triton")
        parts = SimpleNamespace(kernel=kernel, selector=SimpleNamespace(rows_wanted=lambda: evidence))
        works = [
            Work(
                tuple(range(100, 100 + count)),
                fast=row.memory is not None,
                wanted=count if every else 1,
            )
            for row, count in zip(rows, tokens, strict=True)
        ]
        turns = [
            SimpleNamespace(row=row, work=work, parts=parts) for row, work in zip(rows, works, strict=True)
        ]
        return [SimpleNamespace(turn=turn) for turn in turns]
