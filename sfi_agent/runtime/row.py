"""What a session brings to a step: its KV, its recent queries, its sparse memory."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from sfi_agent.contracts import AttentionKernel, KeyIndex, LayerSpec
from sfi_agent.runtime.kv import KVCache
from sfi_agent.runtime.queries import RecentQueries
from sfi_agent.runtime.sparse import SparseMemory


@dataclass
class Row:
    """One session's share of a step.

    Attributes:
        kv: dense keys and values.
        queries: queries of the latest tokens.
        memory: sparse memory, or None when the next step must be dense.
        capture: whether steps keep their queries (a dense turn needs none).
        indexes: codes of each layer's keys, for a selector that re-ranks.
    """

    kv: KVCache = field(default_factory=KVCache)
    queries: RecentQueries = field(default_factory=RecentQueries)
    memory: SparseMemory | None = None
    capture: bool = True
    indexes: dict[int, KeyIndex] = field(default_factory=dict)

    def begin(self, tokens: int) -> None:
        """A step is about to write the next ``tokens`` positions, and may fail."""
        self.queries.forget(self.kv.length, tokens)

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
            fresh = min(self.memory.fresh, start)
            return self.memory.layers[layer].attend(queries, keys, values, spec, fresh)
        return kernel.dense(queries, keys, values, spec)

    def commit(self, tokens: int, *, fast: bool) -> None:
        """The step succeeded: its positions are part of the context now."""
        start = self.kv.length
        if self.capture:
            self.queries.commit(start, tokens)
        self.kv.commit(tokens, fast=fast)
        if self.memory is not None:
            self.memory.fresh = self.kv.length if fast else min(self.memory.fresh, start)

    def truncate(self, length: int) -> None:
        """Forget the positions from ``length`` on; memory that reaches beyond them goes too."""
        self.kv.truncate(length)
        for index in self.indexes.values():
            index.truncate(length)
        if self.memory is None:
            return
        if length < self.memory.length:
            self.memory = None
        else:
            self.memory.fresh = min(self.memory.fresh, length)
