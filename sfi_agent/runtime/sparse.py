"""What fast steps attend to: one layer's memory, and all layers' together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sfi_agent.contracts import AttentionKernel, KeyIndex, LayerSpec, Ranking, Selector
from sfi_agent.runtime.kv import KVCache, LayerStore
from sfi_agent.runtime.remembered import Remembered, recent

COMPACT_ELEMENTS = 2**24
"""Elements of keys gathered at a time for queries that have memories of their own."""


class LayerMemory(ABC):
    """The sparse memory of one full-attention layer."""

    @abstractmethod
    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, spec: LayerSpec, fresh: int) -> Tensor:
        """``[n, H, D_v]`` of the last n tokens; arguments as for ``AttentionKernel.sparse``."""

    @abstractmethod
    def bytes_read(self, store: LayerStore, length: int, tokens: int) -> float:
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

    def bytes_read(self, store: LayerStore, length: int, tokens: int) -> float:
        return (tokens * self.used + recent(self.tail, length, tokens)) * store.position_bytes


@dataclass
class Reranked(LayerMemory):
    """Positions chosen anew for every query, from an index.

    Attributes:
        kernel: computes attention over each choice.
        selector: chooses.
        index: of this layer, or None where the selector reads none.
        ranking: what it may choose from.
        sink: ``[H_kv, sink]`` positions always kept.
        chosen: ``[n, H_kv, S]``, what the latest step's queries chose; None before the first.
    """

    kernel: AttentionKernel
    selector: Selector
    index: KeyIndex | None
    ranking: Ranking
    sink: Tensor
    chosen: Tensor | None = None

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, spec: LayerSpec, fresh: int) -> Tensor:
        chosen = self.chosen = self._reranked(queries)
        length = keys.shape[1]
        kept = self._memories(chosen, length)
        if len(queries) == 1:
            plan = self.kernel.plan(keys, values, kept[0], length, 0)
            return self.kernel.sparse(plan, queries, keys, values, spec, length)
        step = max(1, COMPACT_ELEMENTS // (kept[0].numel() * keys.shape[2]))
        parts = zip(torch.split(queries, step), torch.split(kept, step), strict=True)
        return torch.cat([self._several(few, positions, keys, values, spec) for few, positions in parts])

    def _reranked(self, queries: Tensor) -> Tensor:
        try:
            return self.selector.rerank(queries, self.index, self.ranking)
        except Exception as error:  # a plugin's own: it goes on, with its name
            error.add_note(f"raised while selector {type(self.selector).__name__} chose positions anew")
            raise

    def _memories(self, chosen: Tensor, length: int) -> Tensor:
        """``[n, H_kv, M]``: sink, chosen and recent positions of each query, -1 in unused places."""
        n, heads, _ = chosen.shape
        seen = torch.arange(self.ranking.stop, length, device=chosen.device).expand(n, -1)
        if n > 1:
            own = torch.arange(length - n, length, device=chosen.device)[:, None]
            seen = torch.where(seen <= own, seen, -1)
        return torch.cat([self.sink.expand(n, -1, -1), chosen, seen[:, None].expand(-1, heads, -1)], dim=-1)

    def _several(
        self, queries: Tensor, positions: Tensor, keys: Tensor, values: Tensor, spec: LayerSpec
    ) -> Tensor:
        """Queries with memories of their own, each as a head of its own over a gathered copy."""
        (n, kv_heads, places), group = positions.shape, queries.shape[1] // positions.shape[1]
        owned = positions.transpose(0, 1)  # [H_kv, n, M]
        keys, values = _gathered(keys, owned), _gathered(values, owned)
        slots = torch.arange(places, device=owned.device)
        used = torch.where(owned.flatten(0, 1) >= 0, slots, -1)
        if spec.sinks is not None:
            spec = replace(spec, sinks=spec.sinks.view(kv_heads, 1, group).expand(-1, n, -1).flatten())
        asked = queries.view(n, kv_heads, group, -1).transpose(0, 1).reshape(1, kv_heads * n * group, -1)
        plan = self.kernel.plan(keys, values, used, places, 0)
        out = self.kernel.sparse(plan, asked, keys, values, spec, places)
        return out.view(kv_heads, n, group, -1).transpose(0, 1).reshape(n, kv_heads * group, -1)

    def bytes_read(self, store: LayerStore, length: int, tokens: int) -> float:
        assert self.chosen is not None
        used = float((self.chosen >= 0).sum()) / self.chosen.shape[1] + tokens * self.sink.shape[1]
        read = (used + recent(self.ranking.stop, length, tokens)) * store.position_bytes
        return read + tokens * self._index_bytes()

    def _index_bytes(self) -> float:
        candidates = self.ranking.candidates
        span = self.ranking.stop - self.ranking.start if candidates is None else candidates.shape[-1]
        return self.index.bytes_read(span) if self.index else 0.0


def _gathered(store: Tensor, positions: Tensor) -> Tensor:
    """``[H_kv * n, M, D]`` of ``[H_kv, L, D]`` at ``[H_kv, n, M]``; an unused place holds anything."""
    flat = positions.clamp_min(0).flatten(1)[..., None].expand(-1, -1, store.shape[2])
    return store.gather(1, flat).view(-1, positions.shape[2], store.shape[2])


@dataclass
class SparseMemory:
    """Sink, selected and recent positions as of the last refresh.

    Attributes:
        length: tokens in the context at the refresh.
        budget: positions that each KV head may remember of them.
        layers: of each full-attention layer; none where the row is in pages and a kernel attends to all.
        fresh: first position whose KV the layers may not have seen.
        pages: what that kernel attends to.
    """

    length: int
    budget: int
    layers: dict[int, LayerMemory]
    fresh: int
    pages: Remembered | None = None

    def bytes_read(self, kv: KVCache, tokens: int) -> float:
        """KV and index bytes that the last ``tokens`` tokens read in fast steps, one a step."""
        if self.pages:
            return self.pages.bytes_read(kv.length, tokens)
        return sum(self._layer_bytes(index, store, kv.length, tokens) for index, store in kv.layers.items())

    def _layer_bytes(self, index: int, store: LayerStore, length: int, tokens: int) -> float:
        if index in self.layers:
            return self.layers[index].bytes_read(store, length, tokens)
        return store.visible(length - tokens, length) * store.position_bytes
