"""What a session brings to a step: its KV, its recent queries, its sparse memory."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

from torch import Tensor

from sfi_agent.contracts import (
    AttentionKernel,
    KeyIndex,
    Lane,
    LayerSpec,
    RowsKernel,
    Selector,
    State,
    Stateful,
)
from sfi_agent.errors import PluginError
from sfi_agent.runtime.kv import KVCache
from sfi_agent.runtime.pages import PagedCache
from sfi_agent.runtime.queries import RecentQueries
from sfi_agent.runtime.sparse import SparseMemory


@dataclass(eq=False)
class Row:
    """One session's share of a step.

    Attributes:
        kv: dense keys and values.
        queries: queries of the latest tokens.
        memory: sparse memory, or None when the next step must be dense.
        capture: whether steps keep their queries (a dense turn needs none).
        traced: whether they keep them although no selector wants any: somebody is told what was chosen.
        indexes: codes of each layer's keys, for a selector that re-ranks.
    """

    kv: KVCache = field(default_factory=KVCache)
    queries: RecentQueries = field(default_factory=RecentQueries)
    memory: SparseMemory | None = None
    capture: bool = True
    traced: bool = False
    indexes: dict[int, KeyIndex] = field(default_factory=dict)
    _lane: tuple[RowsKernel, Lane] | None = None

    def begin(self, tokens: int, start: int | None = None) -> None:
        """A step is about to write ``tokens`` positions, and may fail.

        Args:
            tokens: how many.
            start: the first one; further on than the row is long where another step is under way.

        Raises:
            PoolFullError: there are no pages for them.
        """
        start = self.kv.length if start is None else start
        self.queries.forget(start, tokens)
        if isinstance(self.kv, PagedCache):
            self.kv.prepare(start - self.kv.length + tokens)

    def enter(self, tokens: int, kernel: AttentionKernel, *, fast: bool) -> None:
        """The step that was begun attends row by row: in pages, where the kernel and the memory can."""
        self._lane = None
        memory = self.memory if fast else None
        if isinstance(self.kv, PagedCache) and (rows := kernel.rows()) and (memory is None or memory.pages):
            self._lane = rows, self.kv.lane(tokens, memory.pages if memory else None)

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
        if self._lane is not None and isinstance(self.kv, PagedCache):
            rows, lane = self._lane
            if self.capture and spec.window is None:
                self.queries.write(layer, start, queries)
            new = keys.transpose(0, 1), values.transpose(0, 1)
            return rows.attend(queries, *new, self.kv.pool.layer(layer), lane, layer, spec)
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

    def fork(self, selector: Selector | None) -> Row:
        """The same between two turns, in pages that both hold or in a copy; ``selector`` makes the indexes.

        It has no sparse memory: a turn begins dense and refreshes it.
        """
        twin = Row(kv=self.kv.fork(), queries=self.queries.copy(), capture=self.capture)
        for layer, index in self.indexes.items():
            if selector is not None and (made := selector.index(layer)) is not None:
                made.restore(copied(index))
                twin.indexes[layer] = made
        return twin

    def truncate(self, length: int, *, kept: bool = False) -> None:
        """Forget the positions from ``length`` on; memory that reaches beyond them goes too.

        Args:
            length: of what remains.
            kept: pages stay, for the next step writes as many positions.
        """
        self.kv.truncate(length, kept=kept)
        for index in self.indexes.values():
            index.truncate(length)
        if self.memory is None:
            return
        if length < self.memory.length:
            self.memory = None
        else:
            self.memory.fresh = min(self.memory.fresh, length)


def copied(thing: Stateful) -> State:
    """The state of a plugin's object, on its own.

    Raises:
        PluginError: it holds what cannot be copied.
    """
    try:
        return copy.deepcopy(thing.state())
    except Exception as error:  # of the plugin's own state(), or of any object in it
        raise PluginError(
            f"{type(thing).__name__} keeps what cannot be copied ({' '.join(str(error).split())}), so its "
            "session cannot be forked; let it override state and restore"
        ) from error
