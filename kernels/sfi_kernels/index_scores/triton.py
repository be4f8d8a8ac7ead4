"""Logits of queries with coded keys, many rows in one launch."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from sfi_agent.contracts import LayerSpec
from sfi_kernels.paging import PAGE, Paged

CHUNK = 1024
"""Positions of one program, and of one partial sum of the softmax."""


class Scores(NamedTuple):
    """Estimated logits, and what their softmax needs.

    Attributes:
        logits: ``[R, H, chunks * CHUNK]`` float16 by position; undefined outside a row's stretch.
        stats: ``[R, H, chunks, 2]`` float32: of each chunk the highest logit, and the sum of
            ``exp(logit - highest)``.
    """

    logits: Tensor
    stats: Tensor


def scores(
    queries: Tensor,
    index: Paged,
    starts: Tensor,
    stops: Tensor,
    levels: Tensor,
    spec: LayerSpec,
    *,
    longest: int,
) -> Scores:
    """Estimated logits of each row's query with the coded keys of its stretch.

    Args:
        queries: ``[R, H, D]``, rotated as the keys were.
        index: codes ``[..., D * bits / 8]`` uint8 as keys, scales ``[..., 1]`` as values.
        starts, stops: ``[R]`` int32: estimate the positions from ``start`` up to ``stop``.
        levels: ``[2 ** bits]`` float32, what each symbol stands for.
        spec: ``scaling`` and ``softcap`` are applied.
        longest: at least the largest of ``stops``.
    """
    rows, heads, dim = queries.shape
    bits = (len(levels) - 1).bit_length()
    group, chunks = heads // index.kv_heads, triton.cdiv(longest, CHUNK)
    logits = queries.new_empty(rows, heads, chunks * CHUNK, dtype=torch.float16)
    stats = queries.new_empty(rows, heads, chunks, 2, dtype=torch.float32)
    # A byte holds neighbours: their queries side by side, [R, H, 8 / bits, D * bits / 8].
    width, each = index.dim, 8 // bits
    padded = torch.nn.functional.pad(queries, (0, width * each - dim)).view(rows, heads, width, each)
    parts = padded.transpose(2, 3).to(torch.float16).contiguous()
    _score[rows * index.kv_heads, chunks](
        parts, index.keys, index.values, index.tables, starts, stops, levels, logits, stats,
        spec.scaling, spec.softcap or 0.0, index.tables.stride(0), *index.key_strides, *index.value_strides,
        HEADS=heads, KV_HEADS=index.kv_heads, GROUP=group, BITS=bits, WIDTH=width, PAGE=PAGE, CHUNK=CHUNK,
        TILE=max(16, triton.next_power_of_2(group)), WIDE=max(16, triton.next_power_of_2(width)),
        CAPPED=spec.softcap is not None, num_warps=4, num_stages=3,
    )  # fmt: skip
    return Scores(logits, stats)


@triton.jit
def _score(
    queries, codes, scales, tables, starts, stops, levels, logits, stats,
    scaling, softcap, table_stride, c_page, c_head, c_slot, s_page, s_head, s_slot,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, GROUP: tl.constexpr, BITS: tl.constexpr,
    WIDTH: tl.constexpr, PAGE: tl.constexpr, CHUNK: tl.constexpr, TILE: tl.constexpr, WIDE: tl.constexpr,
    CAPPED: tl.constexpr,
):  # fmt: skip
    """One row and KV head, one chunk of positions."""
    PARTS: tl.constexpr = 8 // BITS
    row, head = tl.program_id(0) // KV_HEADS, tl.program_id(0) % KV_HEADS
    chunk, chunks = tl.program_id(1), tl.num_programs(1)
    start, stop = tl.load(starts + row), tl.load(stops + row)
    lane, slots, bytes_ = tl.arange(0, TILE), tl.arange(0, PAGE), tl.arange(0, WIDE)
    live = lane < GROUP
    at = row * HEADS + head * GROUP + lane
    q_at = queries + at[:, None] * (PARTS * WIDTH) + bytes_[None]
    q_mask = live[:, None] & (bytes_[None] < WIDTH)
    to = logits + at[:, None].to(tl.int64) * (chunks * CHUNK)

    top = tl.full([TILE], float("-inf"), tl.float32)
    total = tl.zeros([TILE], tl.float32)
    first = tl.maximum(chunk * CHUNK, start // PAGE * PAGE) // PAGE
    for index in range(first, tl.cdiv(tl.minimum(chunk * CHUNK + CHUNK, stop), PAGE)):
        page = tl.load(tables + row.to(tl.int64) * table_stride + index).to(tl.int64)
        position = index * PAGE + slots
        used = (position >= start) & (position < stop)
        c_at = page * c_page + head * c_head + slots[:, None].to(tl.int64) * c_slot + bytes_[None]
        code = tl.load(codes + c_at, mask=used[:, None] & (bytes_[None] < WIDTH), other=0).to(tl.int32)
        scale = tl.load(scales + page * s_page + head * s_head + slots * s_slot, mask=used, other=0.0)
        found = tl.zeros([TILE, PAGE], tl.float32)
        for part in tl.static_range(PARTS):
            symbol = (code >> (part * BITS)) & ((1 << BITS) - 1)
            level = tl.load(levels + symbol).to(tl.float16)
            q = tl.load(q_at + part * WIDTH, mask=q_mask, other=0.0)
            found += tl.dot(q, tl.trans(level))
        found *= scale.to(tl.float32)[None] * scaling
        if CAPPED:  # softcap * tanh(found / softcap)
            found = softcap * (2 * tl.sigmoid(2 * found / softcap) - 1)
        found = tl.where(used[None], tl.minimum(tl.maximum(found, -60000.0), 60000.0), float("-inf"))
        tl.store(to + position[None], found.to(tl.float16), mask=live[:, None] & used[None])
        higher = tl.maximum(top, tl.max(found, 1))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(top - base) + tl.sum(tl.exp(found - base[:, None]), 1)
        top = higher
    stat = stats + (at.to(tl.int64) * chunks + chunk) * 2
    tl.store(stat, top, mask=live)
    tl.store(stat + 1, total, mask=live)
