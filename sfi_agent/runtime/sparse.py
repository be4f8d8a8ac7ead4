"""What fast steps attend to: one layer's memory, and all layers' together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sfi_agent.contracts import AttentionKernel, KeyIndex, LayerSpec, Ranking, Selector
from sfi_agent.runtime.kv import KVCache, LayerKV


class LayerMemory(ABC):
    """The sparse memory of one full-attention layer."""

    @abstractmethod
    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, spec: LayerSpec, fresh: int) -> Tensor:
        """``[n, H, D_v]`` of the last n tokens; arguments as for ``AttentionKernel.sparse``."""

    @abstractmethod
    def bytes_read(self, store: LayerKV, length: int, tokens: int) -> float:
        """KV and index bytes that the last ``tokens`` of a context of ``length`` read, one a step."""


@dataclass
class Planned(LayerMemory):
    """Positions chosen at the last slow step.

    Attributes:
        kernel: computes attention over ``plan``, its own.
        tail: first recent position.
        used: sink and selected positions, of an average KV head.
    """

    kernel: AttentionKernel
    plan: Any
    tail: int
    used: float

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, spec: LayerSpec, fresh: int) -> Tensor:
        return self.kernel.sparse(self.plan, queries, keys, values, spec, fresh)

    def bytes_read(self, store: LayerKV, length: int, tokens: int) -> float:
        return (tokens * self.used + _recent(self.tail, length, tokens)) * store.position_bytes


@dataclass
class Reranked(LayerMemory):
    """Positions chosen anew for every query, from an index.

    Attributes:
        kernel: computes attention over each choice.
        selector: chooses.
        index: of this layer, or None where the selector reads none.
        ranking: what it may choose from.
        sink: ``[H_kv, sink]`` positions always kept.
    """

    kernel: AttentionKernel
    selector: Selector
    index: KeyIndex | None
    ranking: Ranking
    sink: Tensor
    _used: list[Tensor] = field(default_factory=list)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, spec: LayerSpec, fresh: int) -> Tensor:
        chosen = self.selector.rerank(queries, self.index, self.ranking)
        first = keys.shape[1] - queries.shape[0] + 1
        self._used = list((chosen >= 0).sum((1, 2)) / chosen.shape[1])
        outputs = [
            self._one(queries[i : i + 1], keys[:, : first + i], values[:, : first + i], positions, spec)
            for i, positions in enumerate(chosen)
        ]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _one(self, query: Tensor, keys: Tensor, values: Tensor, positions: Tensor, spec: LayerSpec) -> Tensor:
        kept = torch.cat([self.sink, positions], dim=1)
        plan = self.kernel.plan(keys, values, kept, self.ranking.stop, 0)
        return self.kernel.sparse(plan, query, keys, values, spec, keys.shape[1] - 1)

    def bytes_read(self, store: LayerKV, length: int, tokens: int) -> float:
        used = sum(float(kept) + self.sink.shape[1] for kept in self._used[-tokens:])
        read = (used + _recent(self.ranking.stop, length, tokens)) * store.position_bytes
        return read + tokens * self._index_bytes()

    def _index_bytes(self) -> float:
        candidates = self.ranking.candidates
        span = self.ranking.stop - self.ranking.start if candidates is None else candidates.shape[-1]
        return self.index.bytes_read(span) if self.index else 0.0


def _recent(tail: int, length: int, tokens: int) -> float:
    """Positions from ``tail`` on that the last ``tokens`` of ``length`` see, summed over them."""
    return tokens * (length - tail) - tokens * (tokens - 1) / 2


@dataclass
class SparseMemory:
    """Sink, selected and recent positions as of the last refresh.

    Attributes:
        length: tokens in the context at the refresh.
        budget: positions that each KV head may remember of them.
        layers: of each full-attention layer.
        fresh: first position whose KV the layers may not have seen.
    """

    length: int
    budget: int
    layers: dict[int, LayerMemory]
    fresh: int

    def bytes_read(self, kv: KVCache, tokens: int) -> float:
        """KV and index bytes that the last ``tokens`` tokens read in fast steps, one a step."""
        return sum(self._layer_bytes(index, store, kv.length, tokens) for index, store in kv.layers.items())

    def _layer_bytes(self, index: int, store: LayerKV, length: int, tokens: int) -> float:
        if index in self.layers:
            return self.layers[index].bytes_read(store, length, tokens)
        seen = sum(store.visible(position) for position in range(length - tokens, length))
        return seen * store.position_bytes
