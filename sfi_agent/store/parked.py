"""A session's row in the host's memory, while the device has better use for its own."""

from __future__ import annotations

import dataclasses
from typing import Any, Self

import torch
from torch import Tensor

from sfi_agent.contracts import LayerSpec, Selector
from sfi_agent.runtime.kv import KVCache
from sfi_agent.runtime.queries import RecentQueries
from sfi_agent.runtime.row import Row
from sfi_agent.store.restore import fill
from sfi_agent.store.snapshot import Piece, kv_tensors
from sfi_agent.store.tree import decode, encode, on_host


@dataclasses.dataclass(frozen=True)
class ParkedRow:
    """What a turn needs of a row, in page-locked memory where the row was a GPU's.

    Of the sparse memory it has what the next refresh makes it of, queries and indexes: these leave last and
    come back first. A row in pages comes back with a store of its own, which its turn puts into pages again.

    Attributes:
        kv: without its layers, which ``tensors`` has.
        specs: of the layers.
        queries: their positions; ``query_rows`` as in :class:`~sfi_agent.runtime.queries.RecentQueries`.
        indexes: state of each layer's; one that cannot be put into plain data is made anew from the keys.
        tensors: of all of them.
    """

    kv: KVCache
    specs: dict[int, LayerSpec]
    queries: list[int]
    query_rows: int
    indexes: dict[int, Any]
    tensors: dict[str, Tensor]

    @property
    def nbytes(self) -> int:
        """Bytes on the host."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @classmethod
    def of(cls, row: Row) -> Self:
        """A copy of ``row`` between two turns."""
        kv = row.kv
        tensors = dict(kv_tensors(kv, 0, kv.length))
        positions, layers = row.queries.held(kv.length)
        tensors |= {f"queries.{layer}": on_host(held) for layer, held in layers.items()}
        indexes = {}
        for layer, index in row.indexes.items():
            device, own = kv.layers[layer].device, dict[str, Tensor]()
            try:
                indexes[layer] = encode(index.state(), f"index.{layer}", device, own)
            except TypeError:  # coded again at the next refresh
                continue
            tensors |= own
        specs = {index: store.spec for index, store in kv.layers.items()}
        bare = KVCache({}, kv.length, kv.exact, kv.stretched, kv.unchanged)
        return cls(bare, specs, positions, row.queries.rows, indexes, tensors)

    def row(self, device: torch.device, selector: Selector | None) -> Row:
        """The row on ``device``; ``selector`` is the session's own, which makes its indexes."""
        queries = RecentQueries(self.query_rows)
        kept = {layer: f"queries.{layer}" for layer in self.specs}
        held = {layer: self.tensors[name] for layer, name in kept.items() if name in self.tensors}
        queries.put(self.queries, {layer: tensor.to(device) for layer, tensor in held.items()})
        indexes = {}
        for layer, state in self.indexes.items():
            if selector is not None and (index := selector.index(layer)) is not None:
                index.restore(decode(state, device, self.tensors))
                indexes[layer] = index
        kv = dataclasses.replace(self.kv, layers={})
        fill(kv, self.specs, [Piece(0, kv.length, self.tensors)], device)
        return Row(kv=kv, queries=queries, indexes=indexes)
