"""The highest of each row's estimated attention probabilities, over its heads together.

One pass gives keys and counts, for each piece of a context and for each head, how often each occurs; from
these counts alone follow the smallest key that is kept, and where each piece writes; a last pass writes. No
pass sorts, and all pieces work side by side. What is written, and in which order, depends on positions alone,
so that the same input gives the same output, bit for bit.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sfi_kernels.choice.reference import BINS, LEAST, MANTISSA
from sfi_kernels.index_scores.triton import CHUNK, Scores
from sfi_kernels.paging import PAGE

MOST_PIECES, LONGEST_PIECE = 64, 8192
"""Of a head: pieces, before they grow longer; and positions of one."""
COUNTED = 32
"""Pieces whose counts are read at a time."""


def choose(
    scores: Scores,
    starts: Tensor,
    stops: Tensor,
    wanted: Tensor,
    tables: Tensor,
    *,
    kv_heads: int,
    most: int,
    sinks: bool = False,
) -> tuple[Tensor, Tensor]:
    """Places of the highest estimated probabilities, averaged over each group of query heads.

    Args:
        scores: of each row's query.
        starts, stops: ``[R]`` int32: the stretch to choose from.
        wanted: ``[R]`` int32: positions to choose for all KV heads together.
        tables: ``[R, pages]`` int32, each row's pages: what is written are places, ``PAGE * page + slot``.
        kv_heads: H_kv.
        sinks: whether each head is given the positions before its stretch too, on top of ``wanted``.
        most: room for the positions of one head, at least ``min(wanted, stop - start)`` of every row.

    Returns:
        places ``[R, H_kv, most]`` int32 by ascending position, undefined past the count; and
        counts ``[R, H_kv]``.
    """
    rows, heads, span = scores.logits.shape
    piece = piece_for(span)
    pieces, device = triton.cdiv(span, piece), scores.logits.device
    keys = torch.empty(rows, kv_heads, span, dtype=torch.uint8, device=device)
    bins = torch.empty(rows, kv_heads, pieces, BINS, dtype=torch.int16, device=device)
    totals = torch.zeros(rows, kv_heads, BINS, dtype=torch.int32, device=device)
    least = torch.empty(rows, dtype=torch.int32, device=device)
    before = torch.empty(rows, kv_heads, pieces, 2, dtype=torch.int32, device=device)
    places = torch.empty(rows, kv_heads, most, dtype=torch.int32, device=device)
    counts = torch.empty(rows, kv_heads, dtype=torch.int32, device=device)
    group, parts = heads // kv_heads, scores.stats.shape[2]
    grid = rows * kv_heads, pieces
    sizes = {"KV_HEADS": kv_heads, "PIECE": piece, "num_warps": 4 if piece <= 2 * CHUNK else 8}
    _rank[grid](
        scores.logits, scores.stats, starts, stops, keys, bins, totals, span, parts, **sizes, HEADS=heads,
        GROUP=group, TILE=triton.next_power_of_2(group), WIDE=triton.next_power_of_2(parts), BINS=BINS,
        LEAST=LEAST, MANTISSA=MANTISSA,
    )  # fmt: skip
    _settle[rows * kv_heads,](
        bins, totals, starts, stops, wanted, least, before, counts, pieces, KV_HEADS=kv_heads,
        HEADS_WIDE=triton.next_power_of_2(kv_heads), BINS=BINS, COUNTED=COUNTED, SINKS=sinks, num_warps=4,
    )  # fmt: skip
    _write[grid](
        keys, starts, stops, tables, least, before, places, span, most, tables.stride(0), **sizes,
        PAGE=PAGE, SINKS=sinks,
    )  # fmt: skip
    return places, counts


def piece_for(span: int) -> int:
    """Positions of a program: few pieces are counted sooner, many fill the device."""
    piece = CHUNK
    while piece < LONGEST_PIECE and triton.cdiv(span, piece) > MOST_PIECES:
        piece *= 2
    return piece


@triton.jit
def _rank(
    logits, stats, starts, stops, keys, bins, totals, span, parts,
    KV_HEADS: tl.constexpr, PIECE: tl.constexpr, HEADS: tl.constexpr, GROUP: tl.constexpr,
    TILE: tl.constexpr, WIDE: tl.constexpr, BINS: tl.constexpr, LEAST: tl.constexpr, MANTISSA: tl.constexpr,
):  # fmt: skip
    """Keys of one row, KV head and piece, and how often each occurs."""
    row, head = tl.program_id(0) // KV_HEADS, tl.program_id(0) % KV_HEADS
    piece, pieces = tl.program_id(1), tl.num_programs(1)
    lane = tl.arange(0, TILE)
    live = lane < GROUP
    at = (row * HEADS + head * GROUP + lane).to(tl.int64)
    other = tl.arange(0, WIDE)
    stat = stats + (at[:, None] * parts + other[None]) * 2
    there = live[:, None] & (other[None] < parts)
    tops = tl.load(stat, mask=there, other=float("-inf"))
    sums = tl.load(stat + 1, mask=there, other=0.0)
    start, stop = tl.load(starts + row), tl.load(stops + row)
    position = piece * PIECE + tl.arange(0, PIECE)
    used = (position >= start) & (position < stop)
    here = tl.load(
        logits + at[:, None] * span + position[None], mask=live[:, None] & used[None], other=float("-inf")
    ).to(tl.float32)
    top = tl.max(tops, 1)
    base = tl.where(top == float("-inf"), 0.0, top)
    total = tl.sum(sums * tl.exp(tops - base[:, None]), 1)
    share = tl.exp(here - base[:, None]) * (1.0 / tl.where(total > 0, total, 1.0))[:, None]
    mass = tl.sum(tl.where(live[:, None], share, 0.0), 0) / GROUP
    relative = mass * (stop - start).to(tl.float32)
    key = tl.minimum(
        tl.maximum((relative.to(tl.int32, bitcast=True) >> (23 - MANTISSA)) - LEAST, 0), BINS - 1
    )
    tl.store(keys + tl.program_id(0).to(tl.int64) * span + position, key.to(tl.uint8), mask=used)
    counted = tl.histogram(key, BINS, mask=used)
    to = bins + (tl.program_id(0).to(tl.int64) * pieces + piece) * BINS
    tl.store(to + tl.arange(0, BINS), counted.to(tl.int16))
    tl.atomic_add(totals + tl.program_id(0) * BINS + tl.arange(0, BINS), counted, mask=counted > 0)


@triton.jit
def _settle(
    bins, totals, starts, stops, wanted, least, before, counts, pieces,
    KV_HEADS: tl.constexpr, HEADS_WIDE: tl.constexpr, BINS: tl.constexpr, COUNTED: tl.constexpr,
    SINKS: tl.constexpr,
):  # fmt: skip
    """One row and head: the smallest key that is kept; for each piece, where it writes and how many ties."""
    row, head = tl.program_id(0) // KV_HEADS, tl.program_id(0) % KV_HEADS
    digit, place, other = tl.arange(0, BINS), tl.arange(0, COUNTED), tl.arange(0, HEADS_WIDE)
    start = tl.load(starts + row)
    there = tl.maximum(tl.load(stops + row) - start, 0) * KV_HEADS
    many = tl.minimum(tl.load(wanted + row), there)
    total = (row * KV_HEADS + other)[:, None] * BINS + digit[None]
    by_head = tl.load(totals + total, mask=other[:, None] < KV_HEADS, other=0)
    occurs = tl.sum(by_head, 0)
    from_here = there - tl.cumsum(occurs, 0) + occurs
    smallest = tl.max(tl.where(from_here >= many, digit, 0), 0)
    ties = many - tl.sum(tl.where(digit > smallest, occurs, 0), 0)
    equal_by_head = tl.sum(tl.where(digit[None] == smallest, by_head, 0), 1)
    ties -= tl.sum(tl.where(other < head, equal_by_head, 0), 0)
    bins += tl.program_id(0).to(tl.int64) * pieces * BINS
    before += tl.program_id(0).to(tl.int64) * pieces * 2
    kept = 0
    for first in range(0, pieces, COUNTED):
        inside = first + place < pieces
        at = (first + place)[:, None] * BINS + digit[None]
        here = tl.load(bins + at, mask=inside[:, None], other=0).to(tl.int32)
        equal = tl.sum(tl.where(digit[None] == smallest, here, 0), 1)
        above = tl.sum(tl.where(digit[None] > smallest, here, 0), 1)
        left = tl.maximum(ties - tl.cumsum(equal, 0) + equal, 0)
        taken = above + tl.minimum(left, equal)
        to = before + (first + place) * 2
        tl.store(to, kept + tl.cumsum(taken, 0) - taken, mask=inside)
        tl.store(to + 1, left, mask=inside)
        kept += tl.sum(taken, 0)
        ties -= tl.sum(equal, 0)
    if SINKS:
        kept += start
    tl.store(counts + tl.program_id(0), kept)
    if head == 0:
        tl.store(least + row, smallest)


@triton.jit
def _write(
    keys, starts, stops, tables, least, before, places, span, most, table_stride,
    KV_HEADS: tl.constexpr, PIECE: tl.constexpr, PAGE: tl.constexpr, SINKS: tl.constexpr,
):  # fmt: skip
    """The chosen positions of one head and piece, behind those of the head's earlier pieces."""
    row, piece, pieces = tl.program_id(0) // KV_HEADS, tl.program_id(1), tl.num_programs(1)
    start, stop = tl.load(starts + row), tl.load(stops + row)
    position = piece * PIECE + tl.arange(0, PIECE)
    used = (position >= start) & (position < stop)
    key = tl.load(keys + tl.program_id(0).to(tl.int64) * span + position, mask=used, other=0).to(tl.int32)
    smallest = tl.load(least + row)
    found = before + (tl.program_id(0).to(tl.int64) * pieces + piece) * 2
    begins, ties = tl.load(found), tl.load(found + 1)
    to = places + tl.program_id(0).to(tl.int64) * most
    table = tables + row.to(tl.int64) * table_stride
    sink = 0
    if SINKS:
        sink = start
        page = tl.load(table + position // PAGE, mask=position < sink, other=0)
        tl.store(to + position, page * PAGE + position % PAGE, mask=position < sink)
    # One running sum of both: keys above the smallest in the lower half, keys equal to it in the upper.
    above, tied = used & (key > smallest), used & (key == smallest)
    seen = tl.cumsum(above.to(tl.int32) + (tied.to(tl.int32) << 16), 0)
    equal = seen >> 16
    kept = above | (tied & (equal <= ties))
    slot = sink + begins + (seen & 0xFFFF) + tl.minimum(equal, ties) - 1
    page = tl.load(table + position // PAGE, mask=kept, other=0)
    tl.store(to + slot, page * PAGE + position % PAGE, mask=kept)
