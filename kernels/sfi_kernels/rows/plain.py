"""A lane's rows in plain PyTorch, one after another."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from sfi_agent.contracts import PAGE, Lane, LayerPages, LayerSpec, Rings, RowsKernel
from sfi_kernels.choice import reference as choice
from sfi_kernels.dense_attention import reference as dense
from sfi_kernels.evidence import reference as evidence
from sfi_kernels.index_scores import reference as index_scores
from sfi_kernels.sparse_attention import reference as sparse


class TorchRows(RowsKernel):
    """What every other one must equal; slow."""

    def attend(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        pages: LayerPages,
        lane: Lane,
        layer: int,
        spec: LayerSpec,
    ) -> Tensor:
        rows = len(lane.lengths)
        firsts = (
            range(0, (rows + 1) * lane.tokens, lane.tokens) if lane.firsts is None else lane.firsts.tolist()
        )
        out = queries.new_zeros(*queries.shape[:2], values.shape[2])
        for row, ends in enumerate(pairwise(firsts)):
            if own := range(*ends):
                part = slice(own.start, own.stop)
                given = (each[part] for each in (queries, keys, values))
                out[part] = self._row(row, *given, pages, lane, layer, spec)
        return out

    def mass(
        self,
        queries: Tensor,
        keys: Tensor,
        layers: Sequence[int],
        table: Tensor,
        start: int,
        stop: int,
        spec: LayerSpec,
        power: float,
        *,
        norms: bool,
    ) -> tuple[Tensor, Tensor | None]:
        places = _places(table, stop)[start:]
        each = [
            evidence.mass(asked, _at(keys[layer], places), spec, power)
            for layer, asked in zip(layers, queries, strict=True)
        ]
        masses, lengths = zip(*each, strict=True)
        return torch.stack(masses), torch.stack(lengths) if norms else None

    def _row(
        self,
        row: int,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        pages: LayerPages,
        lane: Lane,
        layer: int,
        spec: LayerSpec,
    ) -> Tensor:
        length, tail = int(lane.lengths[row]), int(lane.tails[row])
        places = _places(lane.tables[row], length)
        start = length - len(queries)
        new = places[start:]
        for store, entries in ((pages.keys, keys), (pages.values, values)):
            store[new // PAGE, :, new % PAGE] = entries
        if lane.rings and spec.window is None:
            _keep(lane.rings, row, layer, start, queries)
        all_keys, all_values = (_at(store, places) for store in (pages.keys, pages.values))
        kept = self._kept(row, queries, pages, lane, layer, spec, places)
        if kept is None or spec.window is not None:
            return dense.dense_attention(queries, all_keys, all_values, spec)
        return sparse.sparse_attention(sparse.Plan(kept, tail), queries, all_keys, all_values, spec)

    def _kept(
        self,
        row: int,
        queries: Tensor,
        pages: LayerPages,
        lane: Lane,
        layer: int,
        spec: LayerSpec,
        places: Tensor,
    ) -> Tensor | None:
        """``[H_kv, S]`` positions before the tail, -1 in unused places; None in a dense row."""
        if lane.lists and layer in lane.lists and int(lane.tails[row]):
            listed, counts = (part[row] for part in lane.lists[layer])
            position_of = torch.full((int(places.max()) + 1,), -1, device=places.device)
            position_of[places] = torch.arange(len(places), device=places.device)
            used = torch.arange(listed.shape[1], device=places.device) < counts[:, None]
            used &= listed >= 0
            return torch.where(used, position_of[listed.clamp(0, len(position_of) - 1).long()], -1)
        if lane.ranked and int(lane.tails[row]):
            return self._chosen(row, queries, pages, lane, spec, places)
        return None

    def _chosen(
        self, row: int, queries: Tensor, pages: LayerPages, lane: Lane, spec: LayerSpec, places: Tensor
    ) -> Tensor:
        ranked = lane.ranked
        assert ranked is not None
        assert pages.codes is not None
        assert pages.scales is not None
        if len(queries) != 1:
            raise ValueError("rows that choose have one new token each")
        start, stop = int(ranked.starts[row]), int(ranked.stops[row])
        codes, scales = (_at(store, places[start:stop]) for store in (pages.codes, pages.scales))
        logits = index_scores.scores(
            queries[0],
            ranked.coding.rotation(pages.keys),
            codes,
            scales[..., 0],
            ranked.coding.levels,
            spec,
        )
        kv_heads = pages.keys.shape[1]
        kept = choice.chosen(choice.keys_of(choice.mass_of(logits, kv_heads)), int(ranked.wanted[row]))
        positions = torch.arange(start, stop, device=kept.device)
        sink = torch.arange(start, device=kept.device).expand(kv_heads, -1)
        return torch.cat([sink, torch.where(kept, positions, -1)], 1)


def _places(table: Tensor, length: int) -> Tensor:
    """``[length]`` int64: where a row's positions are."""
    slots = torch.arange(PAGE, device=table.device)
    return (table[: -(-length // PAGE), None].long() * PAGE + slots).flatten()[:length]


def _at(store: Tensor, places: Tensor) -> Tensor:
    """``[H_kv, P, ...]`` of ``[pages, H_kv, PAGE, ...]``."""
    return store[places // PAGE, :, places % PAGE].transpose(0, 1)


def _keep(rings: Rings, row: int, layer: int, start: int, queries: Tensor) -> None:
    """Put the queries ``[n, H, D]`` of positions from ``start`` on in the row's ring, if it has one."""
    if (ring := rings.stores[row]) is None:
        return
    _, size, *_ = ring.shape
    count = int(rings.facts[3, row])
    kept = slice(max(count - size, 0), count)
    position = torch.arange(start, start + len(queries), device=queries.device)
    ring[layer, position[kept] % size] = queries[kept]
