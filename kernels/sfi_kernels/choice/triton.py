"""The highest of each row's estimated attention probabilities, over its heads together.

One pass gives keys and counts, for each piece of a context and for each head, how many reach each key; the
other finds from these counts alone the smallest key that is kept and where its piece writes, and writes.
Neither sorts, and all pieces work side by side. What is written, and in which order, depends on positions
alone, so that the same input gives the same output, bit for bit.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sfi_kernels.choice.reference import BINS, LEAST, MANTISSA
from sfi_kernels.index_scores.triton import Scores
from sfi_kernels.overlap import overlapped, release, wait
from sfi_kernels.paging import PAGE
from sfi_kernels.rounding import cdiv, next_power_of_2

SHORTEST_PIECE, LONGEST_PIECE, MOST_PIECES = 2048, 8192, 64
"""Of a head: positions of a piece, and pieces before they grow longer."""
RANKED, WRITTEN = 512, 512
"""Positions of a warp, in the one pass and the other."""
COARSE = 8
"""Keys that are passed over at a time, at first, where the smallest is sought."""


def choose(
    scores: Scores,
    starts: Tensor,
    stops: Tensor,
    wanted: Tensor,
    tables: Tensor,
    *,
    most: int,
    sinks: bool = False,
) -> tuple[Tensor, Tensor]:
    """Places of the highest estimated probabilities, averaged over each group of query heads.

    Args:
        scores: of each row's query.
        starts, stops: ``[R]`` int32: the stretch to choose from. Like ``wanted`` and ``tables`` they are read
            before the kernel that gave the scores is done.
        wanted: ``[R]`` int32: positions to choose for all KV heads together.
        tables: ``[R, pages]`` int32, each row's pages: what is written are places, ``PAGE * page + slot``.
        sinks: whether each head is given the positions before its stretch too, on top of ``wanted``.
        most: room for the positions of one head, at least ``min(wanted, stop - start)`` of every row.

    Returns:
        places ``[R, H_kv, most]`` int32 by ascending position, undefined past the count; and
        counts ``[R, H_kv]``.
    """
    rows, kv_heads, span, group = scores.logits.shape
    piece, parts, device = piece_for(span), scores.stats.shape[3], scores.logits.device
    pieces = cdiv(span, piece)
    keys = torch.empty(rows, kv_heads, span, dtype=torch.uint8, device=device)
    reached = torch.empty(rows, BINS, kv_heads, pieces, dtype=torch.int16, device=device)
    places = torch.empty(rows, kv_heads, most, dtype=torch.int32, device=device)
    counts = torch.empty(rows, kv_heads, dtype=torch.int32, device=device)
    grid = rows * kv_heads, pieces
    sizes = {"KV_HEADS": kv_heads, "PAGE": PAGE, "PIECE": piece, "BINS": BINS, **overlapped(device)}
    _rank[grid](
        scores.logits, scores.stats, starts, stops, keys, reached, span, parts, **sizes, GROUP=group,
        TILE=next_power_of_2(group), WIDE=next_power_of_2(parts), LEAST=LEAST,
        MANTISSA=MANTISSA, num_warps=min(piece // RANKED, 16),
    )  # fmt: skip
    _write[grid](
        keys, reached, starts, stops, wanted, tables, places, counts, span, most, tables.stride(0), **sizes,
        COARSE=COARSE, WIDE=next_power_of_2(kv_heads * pieces), SINKS=sinks,
        num_warps=min(piece // WRITTEN, 16),
    )  # fmt: skip
    return places, counts


def piece_for(span: int) -> int:
    """Positions of a program: each reads what all pieces counted, and many fill the device."""
    piece = SHORTEST_PIECE
    while piece < LONGEST_PIECE and cdiv(span, piece) > MOST_PIECES:
        piece *= 2
    return piece


@triton.jit
def _rank(
    logits, stats, starts, stops, keys, reached, span, parts,
    KV_HEADS: tl.constexpr, PIECE: tl.constexpr, BINS: tl.constexpr, PAGE: tl.constexpr, GROUP: tl.constexpr,
    TILE: tl.constexpr, WIDE: tl.constexpr, LEAST: tl.constexpr, MANTISSA: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    """Keys of one row, KV head and piece, and how many of them reach each key."""
    row, head = tl.program_id(0) // KV_HEADS, tl.program_id(0).to(tl.int64)
    piece, pieces = tl.program_id(1), tl.num_programs(1)
    start, stop = tl.load(starts + row), tl.load(stops + row)
    wait(OVERLAP)
    release(OVERLAP)
    reached += row.to(tl.int64) * BINS * KV_HEADS * pieces + head % KV_HEADS * pieces + piece
    reached += tl.arange(0, BINS) * KV_HEADS * pieces
    if piece * PIECE >= stop:  # rows differ in length
        tl.store(reached, tl.zeros([BINS], tl.int16))
        return
    lane, other = tl.arange(0, TILE), tl.arange(0, WIDE)
    position = piece * PIECE + tl.arange(0, PIECE)
    used = (position >= start) & (position < stop)
    # Whole pages, so that many are loaded at a time; outside of the stretch their logits are -inf.
    held = (position >= start // PAGE * PAGE) & (position < tl.cdiv(stop, PAGE) * PAGE)
    here = tl.load(
        logits + head * span * GROUP + position[:, None] * GROUP + lane[None],
        mask=held[:, None] & (lane[None] < GROUP),
        other=float("-inf"),
    )
    stat = stats + (tl.program_id(0) * parts + other)[:, None] * GROUP + lane[None]
    there = (lane[None] < GROUP) & (other[:, None] < parts)
    tops = tl.load(stat, mask=there, other=float("-inf"))
    sums = tl.load(stat + tl.num_programs(0) * parts * GROUP, mask=there, other=0.0)
    top = tl.max(tops, 0)
    base = tl.where(top == float("-inf"), 0.0, top)
    total = tl.sum(sums * tl.exp2(tops - base[None]), 0)
    # What a logit has to pass for a probability that is the mean of the stretch, of one head of the group.
    many = tl.maximum(stop - start, 1).to(tl.float32)
    mean = base + tl.log2(tl.where(total > 0, total, 1.0) * (GROUP / many))
    passed = tl.zeros([1, TILE], tl.float32)
    for each in tl.static_range(GROUP):  # one by one, so that logits stay with the threads that load them
        passed = tl.where(lane[None] == each, tl.sum(tl.where(lane == each, mean, 0.0), 0), passed)
    relative = tl.sum(tl.exp2(here.to(tl.float32) - passed), 1)
    key = (relative.to(tl.int32, bitcast=True) >> (23 - MANTISSA)) - LEAST
    key = tl.minimum(tl.maximum(key, 0), BINS - 1)
    tl.store(keys + head * span + position, key.to(tl.uint8), mask=held)
    counted = tl.histogram(key, BINS, mask=used)
    tl.store(reached, tl.cumsum(counted, 0, reverse=True).to(tl.int16))


@triton.jit
def _highest(reached, first, STEP: tl.constexpr, COUNT: tl.constexpr, many, entries, WIDE: tl.constexpr):
    """The last of ``COUNT`` keys, ``STEP`` from one to the next, that at least ``many`` positions reach."""
    key, entry = first + tl.arange(0, COUNT) * STEP, tl.arange(0, WIDE)
    here = tl.load(reached + key[:, None] * entries + entry[None], mask=entry[None] < entries, other=0)
    return tl.max(tl.where(tl.sum(here.to(tl.int32), 1) >= many, key, first), 0)


@triton.jit
def _sums(a, b, c, d, e, f, more_a, more_b, more_c, more_d, more_e, more_f):
    return a + more_a, b + more_b, c + more_c, d + more_d, e + more_e, f + more_f


@triton.jit
def _write(
    keys, reached, starts, stops, wanted, tables, places, counts, span, most, table_stride,
    KV_HEADS: tl.constexpr, PIECE: tl.constexpr, BINS: tl.constexpr, COARSE: tl.constexpr, WIDE: tl.constexpr,
    PAGE: tl.constexpr, SINKS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """The chosen positions of one head and piece, behind those of the head's earlier pieces."""
    row, head = tl.program_id(0) // KV_HEADS, tl.program_id(0) % KV_HEADS
    piece, pieces = tl.program_id(1), tl.num_programs(1)
    start, stop, many = tl.load(starts + row), tl.load(stops + row), tl.load(wanted + row)
    if (piece > 0) & (piece * PIECE >= stop):
        wait(OVERLAP)
        return
    position = piece * PIECE + tl.arange(0, PIECE)
    used = (position >= start) & (position < stop)
    held = tl.cdiv(stop, PAGE) * PAGE  # whole pages, so that many are loaded at a time
    table = tables + row.to(tl.int64) * table_stride
    place = tl.load(table + position // PAGE, mask=position < held, other=0) * PAGE + position % PAGE
    wait(OVERLAP)
    release(OVERLAP)
    key = tl.load(keys + tl.program_id(0).to(tl.int64) * span + position, mask=position < held, other=0)
    key = key.to(tl.int32)

    # Heads' pieces, in the order in which they are given what ties.
    entries, entry, mine = KV_HEADS * pieces, tl.arange(0, WIDE), head * pieces + piece
    reached += row.to(tl.int64) * BINS * entries
    many = tl.minimum(many, tl.maximum(stop - start, 0) * KV_HEADS)
    smallest = _highest(reached, 0, COARSE, BINS // COARSE, many, entries, WIDE)
    smallest = _highest(reached, smallest, 1, COARSE, many, entries, WIDE)
    at = reached + smallest * entries + entry
    least = tl.load(at, mask=entry < entries, other=0).to(tl.int32)
    higher = tl.minimum(BINS - 1 - smallest, 1) * entries  # none are where there is no higher key
    above = tl.load(at + entries, mask=entry < higher, other=0).to(tl.int32)
    equal, own = least - above, (entry >= head * pieces) & (entry < (head + 1) * pieces)
    before = entry < mine
    all_above, own_above, begins, earlier_heads, own_equal, earlier = tl.reduce(
        (
            above,
            tl.where(own, above, 0),
            tl.where(own & before, above, 0),
            tl.where(before & ~own, equal, 0),
            tl.where(own, equal, 0),
            tl.where(before, equal, 0),
        ),
        0,
        _sums,
    )
    ties = many - all_above
    begins += tl.minimum(earlier, ties) - tl.minimum(earlier_heads, ties)
    ties_left = tl.maximum(ties - earlier, 0)
    sink = 0
    to = places + tl.program_id(0).to(tl.int64) * most
    if SINKS:
        sink = start
        tl.store(to + position, place, mask=position < start)
    if piece == 0:
        taken = tl.minimum(earlier_heads + own_equal, ties) - tl.minimum(earlier_heads, ties)
        tl.store(counts + tl.program_id(0), sink + own_above + taken)
    # One running sum of both: keys above the smallest in the lower half, keys equal to it in the upper.
    higher, tied = used & (key > smallest), used & (key == smallest)
    seen = tl.cumsum(higher.to(tl.int32) + (tied.to(tl.int32) << 16), 0)
    same = seen >> 16
    kept = higher | (tied & (same <= ties_left))
    slot = sink + begins + (seen & 0xFFFF) + tl.minimum(same, ties_left) - 1
    tl.store(to + slot, place, mask=kept)
