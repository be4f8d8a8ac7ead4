"""What a session brings to a step: its KV, its recent queries, its sparse memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sfi_agent.contracts import AttentionKernel, LayerSpec
from sfi_agent.runtime.kv import KVCache

EVIDENCE_ROWS = 32
"""Query tokens kept for evidence, unless a selector wants more."""
SPARE_ROWS = 65
"""Slots beside them, so that a rejected draft (at most 64 tokens) never overwrites kept queries."""


class RecentQueries:
    """The latest tokens' queries in each layer, the raw material of evidence.

    A ring over positions: ``[size, H, D]`` a layer, position p in slot ``p % size``.
    """

    def __init__(self, rows: int = EVIDENCE_ROWS) -> None:
        self.rows = rows
        self.size = rows + SPARE_ROWS
        self._layers: dict[int, Tensor] = {}
        self._held = [-1] * self.size

    def write(self, layer: int, start: int, queries: Tensor) -> None:
        """Keep the queries ``[n, H, D]`` of positions ``start ... start + n - 1``."""
        if (ring := self._layers.get(layer)) is None:
            ring = self._layers[layer] = queries.new_empty(self.size, *queries.shape[1:])
        n = queries.shape[0]
        self.forget(start, n)  # until the step succeeds, which it may not
        if n == 1:
            ring[start % self.size] = queries[0]
            return
        skipped = max(0, n - self.size)
        slots = torch.arange(start + skipped, start + n, device=queries.device) % self.size
        ring[slots] = queries[skipped:]

    def commit(self, start: int, tokens: int) -> None:
        """The step that wrote these positions succeeded."""
        for position in range(max(start, start + tokens - self.size), start + tokens):
            self._held[position % self.size] = position

    def forget(self, start: int, tokens: int) -> None:
        """The slots of these positions hold their queries no more."""
        for position in range(max(start, start + tokens - self.size), start + tokens):
            self._held[position % self.size] = -1

    def latest(self, length: int, rows: int) -> list[int]:
        """Up to ``rows`` of the positions just before ``length`` whose queries are held, ascending."""
        found: list[int] = []
        position = length - 1
        while len(found) < rows and position >= 0 and self._held[position % self.size] == position:
            found.append(position)
            position -= 1
        return found[::-1]

    def gather(self, layer: int, positions: list[int]) -> Tensor:
        """``[len(positions), H, D]``."""
        return self._layers[layer][[position % self.size for position in positions]]


@dataclass
class SparseMemory:
    """Sink, selected and recent positions as planned at the last refresh.

    Attributes:
        length: tokens in the context at the refresh.
        tail: first recent position; everything from here on is remembered.
        plans: the kernel's plan for each full-attention layer.
        planned: sink + selected positions of each KV head.
        fresh: first position whose KV the plans may not have seen.
    """

    length: int
    tail: int
    planned: int
    plans: dict[int, Any]
    fresh: int

    def positions(self, length: int) -> int:
        """Positions that a fast step reads at a context of ``length`` tokens."""
        return self.planned + length - self.tail


@dataclass
class Row:
    """One session's share of a step.

    Attributes:
        kv: dense keys and values.
        queries: queries of the latest tokens.
        memory: sparse memory, or None when the next step must be dense.
        capture: whether steps keep their queries (a dense turn needs none).
    """

    kv: KVCache = field(default_factory=KVCache)
    queries: RecentQueries = field(default_factory=RecentQueries)
    memory: SparseMemory | None = None
    capture: bool = True

    def attend(
        self,
        layer: int,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        spec: LayerSpec,
        kernel: AttentionKernel,
        fast: bool,
    ) -> Tensor:
        """Write this row's new KV and attend, over its memory (``fast``) or over everything.

        Args:
            layer: layer index.
            queries: ``[n, H, D]``.
            keys, values: ``[H_kv, n, D]`` and ``[H_kv, n, D_v]``.
            spec: of the layer; one with a window keeps its own attention in fast steps too.
            kernel: computes it.
            fast: whether this is a fast step.

        Returns:
            ``[n, H, D_v]``.
        """
        start = self.kv.length
        keys, values = self.kv.write(layer, keys, values, spec)
        if spec.window is not None:
            return kernel.dense(queries, keys, values, spec)
        if self.capture:
            self.queries.write(layer, start, queries)
        if fast and self.memory is not None:
            plan, fresh = self.memory.plans[layer], min(self.memory.fresh, start)
            return kernel.sparse(plan, queries, keys, values, spec, fresh)
        return kernel.dense(queries, keys, values, spec)

    def commit(self, tokens: int, *, fast: bool) -> None:
        """The step succeeded: its positions are part of the context now."""
        start = self.kv.length
        if self.capture:
            self.queries.commit(start, tokens)
        else:
            self.queries.forget(start, tokens)
        self.kv.commit(tokens, fast=fast)
        if self.memory is not None:
            self.memory.fresh = self.kv.length if fast else min(self.memory.fresh, start)

    def truncate(self, length: int) -> None:
        """Forget the positions from ``length`` on; memory that reaches beyond them goes too."""
        self.kv.truncate(length)
        if self.memory is None:
            return
        if length < self.memory.length:
            self.memory = None
        else:
            self.memory.fresh = min(self.memory.fresh, length)
