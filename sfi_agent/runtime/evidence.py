"""What a slow step shows a selector: evidence and candidates, in pages computed when it asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sfi_agent.contracts import Evidence, LayerSpec, RowsKernel, View
from sfi_agent.runtime.kv import LayerStore
from sfi_agent.runtime.pages import PagedCache
from sfi_agent.runtime.row import Row


def shown(
    row: Row,
    stores: Mapping[int, LayerStore],
    layers: tuple[int, ...],
    captured: Sequence[int],
    *,
    start: int,
    stop: int,
    count: int,
    kernel: RowsKernel | None,
    norms: bool,
) -> tuple[Evidence, View]:
    """Evidence of a row's queries, and what may be selected from.

    Args:
        row: holds queries and keys.
        stores: of the keys.
        layers: of one shape and spec.
        captured: positions of the queries, one after another.
        start, stop, count: as in ``View``.
        kernel: sums mass over the row's pages; None: it has none.
        norms: whether the keys' norms will be asked for.
    """
    keys = Keys(stores, layers, start, stop)
    if kernel is None or not captured or not isinstance(row.kv, PagedCache):
        evidence = Evidence(_logits(row, keys, layers, captured), len(captured))
        return evidence, View(start, stop, row.kv.length, count, layers, list(keys))
    summed = PagedEvidence(row, layers, captured, keys, kernel, norms=norms)
    return summed, PagedView(start, stop, row.kv.length, count, layers, keys, summed)


@dataclass
class Keys(Sequence[Tensor]):
    """The candidates' keys ``[H_kv, P, D]`` of several layers, looked up each time they are read.

    Attributes:
        stores: of a row's layers.
        layers: those that are meant.
        start, stop: the candidates' stretch.
    """

    stores: Mapping[int, LayerStore]
    layers: tuple[int, ...]
    start: int
    stop: int

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        return self.stores[self.layers[index]].span(self.start, self.stop)[0]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[index] for index in range(len(self)))

    @property
    def some(self) -> LayerStore:
        """Any of the layers."""
        return self.stores[self.layers[0]]


class PagedEvidence(Evidence):
    """Of a row in pages, whose kernel sums mass without the logits.

    Attributes:
        key_norms: ``[N, H_kv, P]`` float32 of the candidates' keys, once they came with a mass.
    """

    def __init__(
        self,
        row: Row,
        layers: tuple[int, ...],
        captured: Sequence[int],
        keys: Keys,
        kernel: RowsKernel,
        *,
        norms: bool,
    ) -> None:
        self.captured = len(captured)
        self._row, self._layers, self._positions = row, layers, captured
        self._keys, self._kernel = keys, kernel
        self._norms = norms
        self.key_norms: Tensor | None = None
        self._found: dict[float, Tensor] = {}

    @cached_property
    def logits(self) -> Tensor:  # type: ignore[override]
        return _logits(self._row, self._keys, self._layers, self._positions)

    def mass(self, power: float = 1.0) -> Tensor:
        if power not in self._found:
            kv, keys = self._row.kv, self._keys
            assert isinstance(kv, PagedCache)
            self._found[power], found = self._kernel.mass(
                self._row.queries.gather_layers(self._layers, self._positions[0], self._positions[-1] + 1),
                kv.pool.keys,
                self._layers,
                kv.table(),
                keys.start,
                keys.stop,
                keys.some.spec,
                power,
                norms=self._norms and self.key_norms is None,
            )
            if found is not None:
                self.key_norms = found
        return self._found[power]


@dataclass
class PagedView(View):
    """Of a row in pages; the norms of its keys come with the evidence.

    Attributes:
        evidence: of the same candidates.
    """

    evidence: PagedEvidence

    @cached_property
    def key_norms(self) -> Tensor:
        found = self.evidence.key_norms
        return super().key_norms if found is None else found


def _logits(row: Row, keys: Keys, layers: tuple[int, ...], captured: Sequence[int]) -> Tensor:
    """``[N, H_kv, G * captured, P]`` float32."""
    if not captured:
        heads, entry = keys.some.kv_heads, keys.some.entry[0]
        return entry.new_empty(len(keys), heads, 0, keys.stop - keys.start, dtype=torch.float32)
    queries = row.queries.gather_layers(layers, captured[0], captured[-1] + 1)
    each = [_layer_logits(keys.some.spec, asked, own) for asked, own in zip(queries, keys, strict=True)]
    return torch.stack(each)


def _layer_logits(spec: LayerSpec, queries: Tensor, keys: Tensor) -> Tensor:
    """``[H_kv, G * captured, P]`` float32 from queries ``[captured, H, D]`` and keys ``[H_kv, P, D]``."""
    captured, heads, dim = queries.shape
    kv_heads = keys.shape[0]
    grouped = queries.transpose(0, 1).reshape(kv_heads, heads // kv_heads * captured, dim)
    return spec.logits(grouped.float() @ keys.float().transpose(-1, -2))
