"""Dense attention of many rows in one launch, their contexts split into parts that run side by side."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from sfi_agent.contracts import LayerSpec
from sfi_kernels.online import updated, written
from sfi_kernels.paging import PAGE, Paged
from sfi_kernels.splits import Launch, combined


def dense_attention(
    queries: Tensor,
    store: Paged,
    lengths: Tensor,
    spec: LayerSpec,
    *,
    longest: int,
    fresh: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Causal attention of the last n tokens of each row over its whole context.

    Args:
        queries: ``[R, n, H, D]``; query i of a row stands at position ``length - n + i``.
        store: keys and values.
        lengths: ``[R]`` int32, contexts with their n new tokens.
        spec: scaling and masks of the layer.
        longest: at least the largest of ``lengths``: how far the launch is laid out.
        fresh: keys ``[R, n, H_kv, D]`` and values ``[R, n, H_kv, D_v]`` of the new tokens, to be
            written to ``store`` on the way; None: they are in it.

    Returns:
        ``[R, n, H, D_v]`` in the queries' dtype.
    """
    n = queries.shape[1]
    span = longest if spec.window is None else min(longest, spec.window + n + PAGE)
    launch = Launch.of(queries, store, spec, fresh, span)
    _attend[launch.grid](
        *launch.tokens, store.keys, store.values, store.tables, lengths, launch.partial, launch.stats,
        spec.scaling, spec.softcap or 0.0, store.tables.stride(0), *store.key_strides, *store.value_strides,
        WINDOW=spec.window or 0, **launch.constants,
    )  # fmt: skip
    return combined(launch.partial, launch.stats, spec.sinks, queries.dtype)


@triton.jit
def _attend(
    queries, new_keys, new_values, keys, values, tables, lengths, partial, stats,
    scaling, softcap, table_stride, k_page, k_head, k_slot, v_page, v_head, v_slot,
    N: tl.constexpr, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, DV: tl.constexpr,
    PAGE: tl.constexpr, TILE: tl.constexpr, WIDE: tl.constexpr, WIDE_V: tl.constexpr,
    WINDOW: tl.constexpr, CAPPED: tl.constexpr, FRESH: tl.constexpr,
):  # fmt: skip
    """One row and KV head, one tile of its queries, one part of its context."""
    GROUP: tl.constexpr = HEADS // KV_HEADS
    row, head = tl.program_id(0) // KV_HEADS, tl.program_id(0) % KV_HEADS
    tile, split, splits = tl.program_id(1), tl.program_id(2), tl.num_programs(2)
    length = tl.load(lengths + row)
    start = length - N  # position of the first new token

    lane = tile * TILE + tl.arange(0, TILE)  # a query token's heads of this group lie side by side
    token = lane // GROUP
    live = token < N
    here = start + token
    dims, vdims, slots = tl.arange(0, WIDE), tl.arange(0, WIDE_V), tl.arange(0, PAGE)
    at = (row * N + token) * HEADS + head * GROUP + lane % GROUP
    q = tl.load(queries + at[:, None] * D + dims[None], mask=live[:, None] & (dims[None] < D), other=0.0)

    first = 0
    if WINDOW > 0:
        first = tl.maximum(start - WINDOW + 1, 0) // PAGE
    pages = tl.cdiv(length, PAGE) - first
    each = tl.cdiv(pages, splits)
    begin = first + split * each

    top = tl.full([TILE], float("-inf"), tl.float32)
    total = tl.zeros([TILE], tl.float32)
    out = tl.zeros([TILE, WIDE_V], tl.float32)
    for index in range(begin, tl.minimum(begin + each, first + pages)):
        page = tl.load(tables + row.to(tl.int64) * table_stride + index).to(tl.int64)
        position = index * PAGE + slots
        k_at = page * k_page + head * k_head + slots[:, None].to(tl.int64) * k_slot + dims[None]
        v_at = page * v_page + head * v_head + slots[:, None].to(tl.int64) * v_slot + vdims[None]
        held = position < length
        if FRESH:
            held = position < start
        k = tl.load(keys + k_at, mask=held[:, None] & (dims[None] < D), other=0.0)
        v = tl.load(values + v_at, mask=held[:, None] & (vdims[None] < DV), other=0.0)
        if FRESH:
            if (index + 1) * PAGE > start:
                new = (position >= start) & (position < length)
                source = ((row * N + position - start) * KV_HEADS + head).to(tl.int64)
                k = written(k, keys, k_at, new_keys, source, new, dims, D, tile)
                v = written(v, values, v_at, new_values, source, new, vdims, DV, tile)
        seen = position[None] <= here[:, None]
        if WINDOW > 0:
            seen &= position[None] > here[:, None] - WINDOW
        top, total, out = updated(q, k, v, seen, top, total, out, scaling, softcap, CAPPED)
    to = at.to(tl.int64) * splits + split
    tl.store(partial + to[:, None] * DV + vdims[None], out, mask=live[:, None] & (vdims[None] < DV))
    tl.store(stats + to * 2, top, mask=live)
    tl.store(stats + to * 2 + 1, total, mask=live)
