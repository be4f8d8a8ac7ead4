"""A session's keys and values in pages of a pool, shared where its past agrees with others'."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Self

import torch
from torch import Tensor

from sfi_agent.contracts import PAGE, Coding, Lane, LayerSpec, Ranked, RowsKernel
from sfi_agent.runtime.kv import KVCache, LayerStore, visible
from sfi_agent.runtime.layers import PagedLayers
from sfi_agent.runtime.pool import PagePool
from sfi_agent.runtime.remembered import Chosen, Listed, Remembered

_versions = count(1)


class PagedCache(KVCache):
    """A session's keys and values in pages; the pages come back when it is forgotten.

    Attributes:
        pool: where the pages are.
        held: pages in order; those before ``length`` are full or being filled.
        coded: positions whose keys are coded.
        version: new whenever ``held`` changes, and no other cache's.
    """

    def __init__(self, pool: PagePool) -> None:
        self.length = self.exact = self.unchanged = 0
        self.stretched = False
        self.pool = pool
        self.held: list[int] = []
        self.coded, self.version = 0, next(_versions)
        self._mean: Tensor | None = None
        self._table: tuple[int, Tensor] | None = None
        weakref.finalize(self, pool.leave, self.held)

    @classmethod
    def adopt(cls, pool: PagePool, kv: KVCache) -> PagedCache:
        """The same positions, in pages.

        Raises:
            PoolFullError: there is no room for them.
        """
        if isinstance(kv, PagedCache):
            return kv
        paged = cls(pool)
        paged.prepare(kv.length)
        places = paged.places(0, kv.length)
        for index, store in kv.layers.items():
            paged.put(index, places, *store.span(0, kv.length))
        paged.length, paged.exact, paged.stretched = kv.length, kv.exact, kv.stretched
        paged.unchanged = kv.unchanged
        return paged

    @property
    def layers(self) -> Mapping[int, LayerStore]:  # type: ignore[override]
        return PagedLayers(self)

    @property
    def windows(self) -> tuple[int | None, ...]:
        """Of the model's layers, in order; None: full attention."""
        return self.pool.windows

    @property
    def alike(self) -> Sequence[tuple[int, ...]]:
        return self.pool.alike

    def dense_bytes(self, first: int, stop: int) -> int:
        return visible(self.windows, first, stop) * self.pool.position_bytes

    @property
    def capacity(self) -> int:
        return len(self.held) * PAGE

    @property
    def nbytes(self) -> int:
        """Of the pages that it holds, those shared with others included."""
        return len(self.held) * self.pool.page_bytes

    @property
    def own(self) -> int:
        """Pages that no other session holds."""
        return sum(not self.pool.shared(page) for page in list(self.held))

    def missing(self, tokens: int) -> int:
        """Pages that it has to take to reach ``tokens`` positions; those that others hold it copies."""
        with self.pool.guard:
            copied = sum(map(self.pool.shared, self.held[self.length // PAGE :]))
            return copied + max(0, -(-tokens // PAGE) - len(self.held))

    def prepare(self, tokens: int) -> None:
        """Have pages of one's own for the next ``tokens`` positions.

        Raises:
            PoolFullError: there are none.
        """
        first, last = self.length // PAGE, -(-(self.length + tokens) // PAGE)
        if last > len(self.held):
            self.held += self.pool.take(last - len(self.held))
            self.version = next(_versions)
        for index in range(first, last):
            if self.pool.shared(self.held[index]):
                self.held[index] = self.pool.copy(self.held[index])
                self.version = next(_versions)

    def places(self, first: int, stop: int) -> Tensor:
        """``[stop - first]`` int64: ``PAGE * page + slot`` of these positions."""
        pages = self.pool.sent(self.held[first // PAGE : -(-stop // PAGE)], torch.int64)
        places = pages[:, None] * PAGE + torch.arange(PAGE, device=pages.device)
        return places.flatten()[first % PAGE : first % PAGE + stop - first]

    def table(self) -> Tensor:
        """``[pages]`` int32: the page of positions ``PAGE * i ...``."""
        if self._table is None or self._table[0] != self.version:
            self._table = self.version, self.pool.sent(self.held, torch.int32)
        return self._table[1]

    def put(self, layer: int, places: Tensor, keys: Tensor, values: Tensor) -> None:
        """Keys ``[H_kv, n, D]`` and values at these places."""
        pages, slots = places // PAGE, places % PAGE
        for store, new in ((self.pool.keys, keys), (self.pool.values, values)):
            store[layer][pages, :, slots] = new.transpose(0, 1)

    def write(self, layer: int, keys: Tensor, values: Tensor, spec: LayerSpec) -> tuple[Tensor, Tensor]:
        """As :meth:`KVCache.write`; what comes back is a copy."""
        end = self.length + keys.shape[1]
        self.put(layer, self.places(self.length, end), keys, values)
        return self.gathered(layer, 0, end)

    def gathered(self, layer: int, first: int, stop: int) -> tuple[Tensor, Tensor]:
        """Copies ``[H_kv, stop - first, D]`` and ``[H_kv, stop - first, D_v]``."""
        pages = self.held[first // PAGE : -(-stop // PAGE)]
        index = self.pool.sent(pages, torch.int64)
        skipped = first % PAGE
        keys, values = (
            store[layer]
            .index_select(0, index)
            .transpose(0, 1)
            .flatten(1, 2)[:, skipped : skipped + stop - first]
            for store in (self.pool.keys, self.pool.values)
        )
        return keys, values

    def truncate(self, length: int, *, kept: bool = False) -> None:
        with self.pool.guard:
            super().truncate(length)
            self.coded = min(self.coded, length)
            if length < PAGE:
                self._mean = None
            needed = -(-self.length // PAGE)
            if needed < len(self.held) and not kept:
                left = self.held[needed:]
                del self.held[needed:]
                self.pool.leave(left)
                self.version = next(_versions)

    def fork(self, length: int | None = None) -> PagedCache:
        """The same positions, in the same pages."""
        twin = PagedCache(self.pool)
        twin.share(self, self.length if length is None else min(length, self.length))
        return twin

    def share(self, other: Self, length: int) -> int:
        """Begin anew with another's first ``length`` positions, whose pages both hold from now on.

        Returns:
            how many: fewer where the other's own thread forgot some of them meanwhile.
        """
        with self.pool.guard:
            self.truncate(0)
            length = min(length, other.length)
            pages = other.held[: -(-length // PAGE)]
            self.pool.hold(pages)
            self.held += pages
            self.version = next(_versions)
            self.length, self.exact = length, min(other.exact, length)
            self.stretched = other.stretched
            self.coded, self._mean = min(other.coded, length), other._mean if length >= PAGE else None
        return length

    def code(self, coding: Coding, stop: int, kernel: RowsKernel) -> int:
        """Code the keys up to ``stop``, in all layers at once; how many were.

        They are coded less the mean of the first page, which sessions that share pages share: so codes follow
        from the keys alone, wherever the session has been. While that page is not full they are coded as they
        are, and again later.
        """
        if self._mean is None:
            self.coded = 0
        first, pool = self.coded, self.pool
        if first >= stop:
            return 0
        assert pool.codes is not None
        assert pool.scales is not None
        if self._mean is None and self.length >= PAGE:
            self._mean = pool.keys[:, self.held[0]].mean(2, dtype=torch.float32)  # [layers, H_kv, D]
        layers, _, heads, _, dim = pool.keys.shape
        mean = self._mean
        if mean is None:
            mean = pool.keys.new_zeros(layers, heads, dim, dtype=torch.float32)
        kernel.code(coding, pool.keys, pool.codes, pool.scales, self.places(first, stop), mean)
        self.coded = stop
        return stop - first

    def code_bytes(self, positions: int) -> float:
        """Bytes of the codes of so many positions in one layer, all KV heads."""
        assert self.pool.codes is not None
        _, _, heads, _, width = self.pool.codes.shape
        return heads * positions * (width + 2)

    def lane(self, tokens: int, memory: Remembered | None) -> Lane:
        """This session alone, with its next ``tokens`` positions prepared; dense without a memory."""
        end, heads = self.length + tokens, self.pool.keys.shape[2]
        chosen = memory if isinstance(memory, Chosen) else None
        start, stop, count = (chosen.sink, chosen.tail, chosen.count) if chosen else (0, 0, 0)
        facts = [end, memory.tail if memory else 0, start, stop, count * heads, *self.held]
        sent = self.pool.sent(facts, torch.int32)
        each, table = [sent[index : index + 1] for index in range(5)], sent[None, 5:]
        ranked = None
        if chosen:
            ranked = Ranked(chosen.coding, each[2], each[3], each[4], chosen.most(heads), stop)
        lists = memory.lists() if isinstance(memory, Listed) else None
        return Lane(tokens, table, each[0], each[1], end, lists, ranked)
