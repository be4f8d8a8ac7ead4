"""Attention over listed positions and everything recent, read where they lie."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from sfi_agent.contracts import LayerSpec
from sfi_kernels.online import updated, written
from sfi_kernels.paging import Paged
from sfi_kernels.splits import Launch, combined

BLOCK = 64
"""Positions read at a time."""


def sparse_attention(
    queries: Tensor,
    store: Paged,
    listed: Tensor,
    counts: Tensor,
    tails: Tensor,
    lengths: Tensor,
    spec: LayerSpec,
    *,
    longest: int,
    fresh: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Attention of each row's last tokens over ``listed`` and everything from ``tails`` on.

    Args:
        queries: ``[R, n, H, D]``; query i of a row stands at position ``length - n + i``.
        store: keys and values.
        listed: ``[R, H_kv, S]`` int32 positions below the row's tail, in any order; -1 is passed over.
        counts: ``[R, H_kv]`` int32, how many of ``listed`` to read.
        tails: ``[R]`` int32, first recent position.
        lengths: ``[R]`` int32, contexts with their n new tokens.
        spec: scaling and masks of the layer; its ``window`` is None.
        longest: at least the largest ``count + length - tail``: how far the launch is laid out.
        fresh: as in :func:`sfi_kernels.dense_attention.triton.dense_attention`.

    Returns:
        ``[R, n, H, D_v]`` in the queries' dtype.
    """
    launch = Launch.of(queries, store, spec, fresh, longest)
    _attend[launch.grid](
        *launch.tokens, store.keys, store.values, store.tables, listed, counts, tails, lengths,
        launch.partial, launch.stats, spec.scaling, spec.softcap or 0.0, store.tables.stride(0),
        listed.stride(1), *store.key_strides, *store.value_strides, BLOCK=BLOCK, **launch.constants,
    )  # fmt: skip
    return combined(launch.partial, launch.stats, spec.sinks, queries.dtype)


@triton.jit
def _attend(
    queries, new_keys, new_values, keys, values, tables, listed, counts, tails, lengths, partial, stats,
    scaling, softcap, table_stride, list_stride, k_page, k_head, k_slot, v_page, v_head, v_slot,
    N: tl.constexpr, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, DV: tl.constexpr,
    PAGE: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr, WIDE_V: tl.constexpr,
    CAPPED: tl.constexpr, FRESH: tl.constexpr,
):  # fmt: skip
    """One row and KV head, one tile of its queries, one part of its memory."""
    GROUP: tl.constexpr = HEADS // KV_HEADS
    row, head = tl.program_id(0) // KV_HEADS, tl.program_id(0) % KV_HEADS
    tile, split, splits = tl.program_id(1), tl.program_id(2), tl.num_programs(2)
    length, tail = tl.load(lengths + row), tl.load(tails + row)
    count = tl.load(counts + row * KV_HEADS + head)
    start = length - N

    lane = tile * TILE + tl.arange(0, TILE)
    token = lane // GROUP
    live = token < N
    here = start + token
    dims, vdims = tl.arange(0, WIDE), tl.arange(0, WIDE_V)
    at = (row * N + token) * HEADS + head * GROUP + lane % GROUP
    q = tl.load(queries + at[:, None] * D + dims[None], mask=live[:, None] & (dims[None] < D), other=0.0)

    items = count + length - tail  # listed ones first, then the recent ones
    each = tl.cdiv(tl.cdiv(items, BLOCK), splits) * BLOCK
    begin, end = split * each, tl.minimum(split * each + each, items)
    table = tables + row.to(tl.int64) * table_stride
    list_at = listed + (row * KV_HEADS + head).to(tl.int64) * list_stride

    top = tl.full([TILE], float("-inf"), tl.float32)
    total = tl.zeros([TILE], tl.float32)
    out = tl.zeros([TILE, WIDE_V], tl.float32)
    for first in range(begin, end, BLOCK):
        item = first + tl.arange(0, BLOCK)
        position = tl.load(list_at + item, mask=(item < count) & (item < end), other=-1)
        position = tl.where((item >= count) & (item < end), tail + item - count, position)
        used = position >= 0
        page = tl.load(table + position // PAGE, mask=used, other=0).to(tl.int64)
        slot = (position % PAGE).to(tl.int64)
        k_at = (page * k_page + head * k_head + slot * k_slot)[:, None] + dims[None]
        v_at = (page * v_page + head * v_head + slot * v_slot)[:, None] + vdims[None]
        held = used
        if FRESH:
            held = used & (position < start)
        k = tl.load(keys + k_at, mask=held[:, None] & (dims[None] < D), other=0.0)
        v = tl.load(values + v_at, mask=held[:, None] & (vdims[None] < DV), other=0.0)
        if FRESH:
            if first + BLOCK > items - N:
                new = used & (position >= start)
                source = ((row * N + position - start) * KV_HEADS + head).to(tl.int64)
                k = written(k, keys, k_at, new_keys, source, new, dims, D, tile)
                v = written(v, values, v_at, new_values, source, new, vdims, DV, tile)
        seen = used[None] & (position[None] <= here[:, None])
        top, total, out = updated(q, k, v, seen, top, total, out, scaling, softcap, CAPPED)
    to = at.to(tl.int64) * splits + split
    tl.store(partial + to[:, None] * DV + vdims[None], out, mask=live[:, None] & (vdims[None] < DV))
    tl.store(stats + to * 2, top, mask=live)
    tl.store(stats + to * 2 + 1, total, mask=live)
