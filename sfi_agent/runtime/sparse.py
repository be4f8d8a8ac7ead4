"""What fast steps attend to: one layer's memory, and all layers' together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sfi_agent.contracts import (
    AttentionKernel,
    Coding,
    KeyIndex,
    LayerSpec,
    Lists,
    Ranking,
    Selector,
)
from sfi_agent.runtime.kv import KVCache, LayerStore

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
        return (tokens * self.used + _recent(self.tail, length, tokens)) * store.position_bytes


@dataclass
class InPages(LayerMemory):
    """The memory of a row in pages, to which a kernel attends through the row's lane.

    Attributes:
        tail: first recent position.
        used: sink and selected positions, of an average KV head.
    """

    tail: int
    used: float

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, spec: LayerSpec, fresh: int) -> Tensor:
        raise AssertionError("a row in pages attends through its lane")

    def bytes_read(self, store: LayerStore, length: int, tokens: int) -> float:
        return (tokens * self.used + _recent(self.tail, length, tokens)) * store.position_bytes


@dataclass
class Listed(InPages):
    """Positions chosen at the last slow step.

    Attributes:
        lists: where they are, for one row.
    """

    lists: Lists

    @classmethod
    def of(cls, places: Tensor, tail: int, used: float) -> Listed:
        """From places ``[H_kv, S]`` int32, -1 where a head remembers fewer."""
        counts = torch.full((1, places.shape[0]), places.shape[1], dtype=torch.int32, device=places.device)
        return cls(tail, used, Lists(places[None].contiguous(), counts))


@dataclass
class Chosen(InPages):
    """Positions that a kernel chooses anew at every step, by the codes in the row's pages.

    Attributes:
        code_bytes: that one choice reads.
    """

    code_bytes: float

    def bytes_read(self, store: LayerStore, length: int, tokens: int) -> float:
        return super().bytes_read(store, length, tokens) + tokens * self.code_bytes


@dataclass(frozen=True)
class Choice:
    """What a kernel chooses from, and how much.

    Attributes:
        coding: of the codes.
        start, stop: the candidates' stretch, between sink and recent.
        count: positions for each KV head, on average.
    """

    coding: Coding
    start: int
    stop: int
    count: int

    def most(self, kv_heads: int) -> int:
        """Positions that one head may be given, the sink's and all."""
        return self.start + min(self.count * kv_heads, self.stop - self.start)


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
        chosen = self.chosen = self.selector.rerank(queries, self.index, self.ranking)
        if len(queries) == 1:
            kept = torch.cat([self.sink, chosen[0]], dim=1)
            plan = self.kernel.plan(keys, values, kept, self.ranking.stop, 0)
            return self.kernel.sparse(plan, queries, keys, values, spec, keys.shape[1] - 1)
        kept = self._memories(chosen, keys.shape[1])
        step = max(1, COMPACT_ELEMENTS // (kept[0].numel() * keys.shape[2]))
        parts = zip(torch.split(queries, step), torch.split(kept, step), strict=True)
        return torch.cat([self._several(few, positions, keys, values, spec) for few, positions in parts])

    def _memories(self, chosen: Tensor, length: int) -> Tensor:
        """``[n, H_kv, M]``: sink, chosen and recent positions of each query, -1 in unused places."""
        n, heads, _ = chosen.shape
        recent = torch.arange(self.ranking.stop, length, device=chosen.device)
        own = torch.arange(length - n, length, device=chosen.device)[:, None]
        seen = torch.where(recent <= own, recent, -1)[:, None].expand(-1, heads, -1)
        return torch.cat([self.sink.expand(n, -1, -1), chosen, seen], dim=-1)

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
        read = (used + _recent(self.ranking.stop, length, tokens)) * store.position_bytes
        return read + tokens * self._index_bytes()

    def _index_bytes(self) -> float:
        candidates = self.ranking.candidates
        span = self.ranking.stop - self.ranking.start if candidates is None else candidates.shape[-1]
        return self.index.bytes_read(span) if self.index else 0.0


def _gathered(store: Tensor, positions: Tensor) -> Tensor:
    """``[H_kv * n, M, D]`` of ``[H_kv, L, D]`` at ``[H_kv, n, M]``; an unused place holds anything."""
    flat = positions.clamp_min(0).flatten(1)[..., None].expand(-1, -1, store.shape[2])
    return store.gather(1, flat).view(-1, positions.shape[2], store.shape[2])


def _recent(tail: int, length: int, tokens: int) -> float:
    """Positions from ``tail`` on that the last ``tokens`` of ``length`` see, summed over them."""
    return tokens * (length - tail) - tokens * (tokens - 1) / 2


def _widened(places: Tensor, width: int) -> Tensor:
    return places if places.shape[-1] == width else functional.pad(places, (0, width - places.shape[-1]))


@dataclass
class SparseMemory:
    """Sink, selected and recent positions as of the last refresh.

    Attributes:
        length: tokens in the context at the refresh.
        budget: positions that each KV head may remember of them.
        layers: of each full-attention layer.
        fresh: first position whose KV the layers may not have seen.
        choice: what a kernel chooses from at every step, for all layers; None: they know for themselves.
    """

    length: int
    budget: int
    layers: dict[int, LayerMemory]
    fresh: int
    choice: Choice | None = None
    _stacked: tuple[Tensor, Tensor] | None = field(default=None, init=False, repr=False)

    @property
    def in_pages(self) -> bool:
        """Whether a kernel over pages can attend to it."""
        return self.choice is not None or self.lists is not None

    @cached_property
    def lists(self) -> dict[int, Lists] | None:
        """Of each layer, where that is all there is to know; None otherwise."""
        found = {index: kept.lists for index, kept in self.layers.items() if isinstance(kept, Listed)}
        return found if len(found) == len(self.layers) else None

    def listed_in(self, layers: int) -> tuple[Tensor, Tensor] | None:
        """Places ``[layers, H_kv, S]`` and counts ``[layers, H_kv]`` of all the model's layers, 0 where a
        layer has none; None where nothing is listed."""
        if self._stacked is None and self.lists:
            some = next(iter(self.lists.values()))
            none = Lists(torch.zeros_like(some.places), torch.zeros_like(some.counts))
            each = [self.lists.get(layer, none) for layer in range(layers)]
            width = max(lists.places.shape[2] for lists in each)
            places = torch.cat([_widened(lists.places, width) for lists in each])
            self._stacked = places, torch.cat([lists.counts for lists in each])
        return self._stacked

    @property
    def tail(self) -> int:
        """First recent position of a memory ``in_pages``."""
        kept = next(iter(self.layers.values()))
        assert isinstance(kept, InPages)
        return kept.tail

    def bytes_read(self, kv: KVCache, tokens: int) -> float:
        """KV and index bytes that the last ``tokens`` tokens read in fast steps, one a step."""
        return sum(self._layer_bytes(index, store, kv.length, tokens) for index, store in kv.layers.items())

    def _layer_bytes(self, index: int, store: LayerStore, length: int, tokens: int) -> float:
        if index in self.layers:
            return self.layers[index].bytes_read(store, length, tokens)
        seen = sum(store.visible(position) for position in range(length - tokens, length))
        return seen * store.position_bytes
