"""Attention of a lane's rows: in plain PyTorch row by row, and in Triton all at once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from sfi_agent.contracts import PAGE, Beside, Coding, Drawing, Lane, LayerPages, LayerSpec, Rings, RowsKernel
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


def _fitting(rings: Rings, queries: Tensor) -> Rings:
    """Those rings, which are written by their addresses: a store of something else would be overrun."""
    for ring in rings.stores:
        if ring is not None and (ring.shape[2:] != queries.shape[1:] or ring.dtype != queries.dtype):
            raise ValueError(
                f"queries of {tuple(queries.shape[1:])} {queries.dtype} do not fit their ring's "
                f"{tuple(ring.shape[2:])} {ring.dtype}"
            )
    return rings


def _keep(rings: Rings, row: int, layer: int, start: int, queries: Tensor) -> None:
    """Put the queries ``[n, H, D]`` of positions from ``start`` on in the row's ring, if it has one."""
    if (ring := rings.stores[row]) is None:
        return
    _, size, *_ = ring.shape
    count = int(rings.facts[3, row])
    kept = slice(max(count - size, 0), count)
    position = torch.arange(start, start + len(queries), device=queries.device)
    ring[layer, position[kept] % size] = queries[kept]


class TritonRows(RowsKernel):
    """One launch a layer and four more where rows choose; one more where a context has many parts, or rows of
    several tokens stand among those that attend to less, and up to two where one is a prompt of many."""

    def __init__(self) -> None:
        self._held: Tensor | None = None

    def _counters(self, device: torch.device) -> Tensor:
        """Its own: other lanes may be under way on other streams."""
        from sfi_kernels.joining import counters_for

        if self._held is None:
            self._held = counters_for(device)
        return self._held

    def linear(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        found = self._product(inputs, weight, bias, Beside())
        return super().linear(inputs, weight, bias) if found is None else found

    def fuses(self, tokens: int, dtype: torch.dtype) -> bool:
        from sfi_kernels.linear.triton import MOST_TOKENS

        return tokens <= MOST_TOKENS and dtype.itemsize == 2  # wider ones have too few registers for a norm

    def fused(self, inputs: Tensor, weight: Tensor, bias: Tensor | None, beside: Beside) -> Tensor:
        found = self._product(inputs, weight, bias, beside)
        return super().fused(inputs, weight, bias, beside) if found is None else found

    def _product(self, inputs: Tensor, weight: Tensor, bias: Tensor | None, beside: Beside) -> Tensor | None:
        """By the kernel, or None where it does not serve these."""
        from sfi_kernels.linear.triton import MOST_TOKENS, linear

        if not (inputs.is_cuda and len(inputs) <= MOST_TOKENS and weight.stride(1) == 1):
            return None
        return linear(inputs, weight, bias, **beside._asdict(), counters=self._counters(inputs.device))

    def draw(self, logits: Tensor, drawing: Drawing | None, out: Tensor) -> None:
        from sfi_kernels.drawing.triton import draw

        draw(logits, drawing, out, counters=self._counters(logits.device))

    def code(
        self, coding: Coding, keys: Tensor, codes: Tensor, scales: Tensor, places: Tensor, mean: Tensor
    ) -> None:
        from sfi_kernels.coding.triton import code

        if not coding.nearest or keys.shape[-1] % 16:
            return super().code(coding, keys, codes, scales, places, mean)
        return code(keys, codes, scales, places, mean, coding.rotation(keys), coding.levels)

    def share(self, reads: Sequence[int], heads: int, pages: LayerPages) -> int:
        from sfi_kernels.splits import Room, share_for

        (_, kv_heads, _, dim), value_dim = pages.keys.shape, pages.values.shape[3]
        room = Room.of(heads // kv_heads, dim, value_dim, pages.keys.element_size(), pages.keys.device)
        return share_for([-(-each // PAGE) for each in reads], kv_heads * room.tiles, room.slots)

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
        from sfi_kernels.append.triton import append
        from sfi_kernels.dense_attention.triton import dense_attention
        from sfi_kernels.paging import Paged
        from sfi_kernels.spans import MOST_FRESH, Spans
        from sfi_kernels.sparse_attention.triton import sparse_attention

        store = Paged.pool(pages.keys, pages.values, lane.tables)
        spans = None if lane.firsts is None else Spans(lane.firsts, lane.tokens)
        new = (keys, values) if lane.tokens <= MOST_FRESH else None
        if new is None:
            append(keys, values, store, lane.lengths, spans)
        chooses = spec.window is None and bool(lane.lists or lane.ranked)
        rings = (_fitting(lane.rings, queries).facts, layer) if lane.rings and spec.window is None else None
        given: dict[str, Any] = {"fresh": new, "rings": rings, "counters": self._counters(queries.device)}
        prompts = spans is not None and new is None and len(lane.lengths) > 1
        single = spans and spans._replace(most=1)
        dense = partial(dense_attention, queries, store, lane.lengths, spec, longest=lane.longest, **given)
        out = None
        if spans or not chooses:
            out = dense(spans=spans._replace(least=2) if spans and (chooses or prompts) else spans)
        if not chooses:
            return dense(spans=single, out=out) if prompts else out
        listed = lane.lists[layer] if lane.lists else self._chosen(queries, pages, lane, spec)
        return sparse_attention(
            queries,
            store,
            *listed,
            lane.tails,
            lane.lengths,
            spec,
            longest=lane.longest,
            chosen=lane.ranked is not None,
            shares=lane.shares,
            spans=single,
            out=out,
            **given,
        )

    def _chosen(
        self, queries: Tensor, pages: LayerPages, lane: Lane, spec: LayerSpec
    ) -> tuple[Tensor, Tensor]:
        from sfi_kernels.choice.triton import choose
        from sfi_kernels.index_scores.triton import scores
        from sfi_kernels.paging import Paged

        ranked = lane.ranked
        assert ranked is not None
        assert pages.codes is not None
        assert pages.scales is not None
        index = Paged.pool(pages.codes, pages.scales, lane.tables)
        coding = ranked.coding
        found = scores(
            queries,
            coding.rotation(pages.keys),
            index,
            ranked.starts,
            ranked.stops,
            coding.levels,
            spec,
            longest=ranked.longest,
            firsts=lane.firsts,
        )
        return choose(
            found, ranked.starts, ranked.stops, ranked.wanted, lane.tables, most=ranked.most, sinks=True
        )

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
        from sfi_kernels.evidence.triton import mass

        counters = self._counters(keys.device)
        return mass(queries, keys, layers, table, start, stop, spec, power, norms=norms, counters=counters)

    def place(self, positions: Tensor, table: Tensor, out: Tensor, kept: Tensor) -> None:
        from sfi_kernels.places.triton import place

        place(positions, table, out, kept)
