"""A lane's rows in Triton, all at once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sfi_agent.contracts import PAGE, Beside, Coding, Drawing, Lane, LayerPages, LayerSpec, Rings, RowsKernel


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

        return mass(queries, keys, layers, table, start, stop, spec, power, norms=norms)

    def place(self, positions: Tensor, table: Tensor, out: Tensor, kept: Tensor) -> None:
        from sfi_kernels.places.triton import place

        place(positions, table, out, kept)


def _fitting(rings: Rings, queries: Tensor) -> Rings:
    """Those rings, which are written by their addresses: a store of something else would be overrun."""
    for ring in rings.stores:
        if ring is not None and (ring.shape[2:] != queries.shape[1:] or ring.dtype != queries.dtype):
            raise ValueError(
                f"queries of {tuple(queries.shape[1:])} {queries.dtype} do not fit their ring's "
                f"{tuple(ring.shape[2:])} {ring.dtype}"
            )
    return rings
