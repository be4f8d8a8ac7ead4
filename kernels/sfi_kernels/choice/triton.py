"""The highest of each row's estimated attention probabilities: a radix select over its heads together.

Two passes over 6 bits each find the smallest key that is kept; a third counts, a fourth writes. No
pass sorts, and all of a row's chunks work side by side. The order of what is written depends on
positions alone, so that the same input gives the same output, bit for bit.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sfi_kernels.choice.reference import KEY_BITS
from sfi_kernels.index_scores.triton import CHUNK, Scores
from sfi_kernels.paging import PAGE

BINS = 2 ** (KEY_BITS // 2)
"""Few, because a histogram's cost grows with them."""


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
    chunks, device = span // CHUNK, scores.logits.device
    keys = torch.empty(rows, kv_heads, span, dtype=torch.int16, device=device)
    bins = torch.zeros(rows, 2, BINS, dtype=torch.int32, device=device)
    found = torch.empty(rows, kv_heads * chunks, 2, dtype=torch.int32, device=device)
    places = torch.empty(rows, kv_heads, most, dtype=torch.int32, device=device)
    counts = torch.empty(rows, kv_heads, dtype=torch.int32, device=device)
    sizes = {"KV_HEADS": kv_heads, "CHUNK": CHUNK, "BINS": BINS}
    grid = rows * kv_heads, chunks
    group, blocks = heads // kv_heads, scores.stats.shape[2]
    _rank[grid](
        scores.logits, scores.stats, starts, stops, keys, bins, **sizes,
        HEADS=heads, GROUP=group, TILE=triton.next_power_of_2(group), BLOCKS=blocks,
        WIDE=triton.next_power_of_2(blocks),
        LEAST=(127 << 7) - 2**KEY_BITS + 1, num_warps=4,
    )  # fmt: skip
    _refine[grid](keys, bins, starts, stops, wanted, **sizes, num_warps=4)
    _count[grid](keys, bins, starts, stops, wanted, found, **sizes, num_warps=4)
    _write[grid](
        keys, bins, starts, stops, wanted, tables, found, places, counts, most, tables.stride(0), **sizes,
        PAGE=PAGE, SINKS=sinks,
        WIDE=triton.next_power_of_2(kv_heads * chunks), num_warps=4,
    )  # fmt: skip
    return places, counts


@triton.jit
def _rank(
    logits, stats, starts, stops, keys, bins,
    KV_HEADS: tl.constexpr, CHUNK: tl.constexpr, BINS: tl.constexpr, HEADS: tl.constexpr,
    GROUP: tl.constexpr, TILE: tl.constexpr, BLOCKS: tl.constexpr, WIDE: tl.constexpr, LEAST: tl.constexpr,
):  # fmt: skip
    """Keys of one row, KV head and chunk, and how often their upper digits occur."""
    row, head = tl.program_id(0) // KV_HEADS, tl.program_id(0) % KV_HEADS
    chunk, chunks = tl.program_id(1), tl.num_programs(1)
    lane = tl.arange(0, TILE)
    live = lane < GROUP
    at = (row * HEADS + head * GROUP + lane).to(tl.int64)
    other = tl.arange(0, WIDE)
    stat = stats + (at[:, None] * BLOCKS + other[None]) * 2
    there = live[:, None] & (other[None] < BLOCKS)
    tops = tl.load(stat, mask=there, other=float("-inf"))
    top = tl.max(tops, 1)
    base = tl.where(top == float("-inf"), 0.0, top)
    total = tl.sum(tl.load(stat + 1, mask=there, other=0.0) * tl.exp(tops - base[:, None]), 1)
    position = chunk * CHUNK + tl.arange(0, CHUNK)
    used = (position >= tl.load(starts + row)) & (position < tl.load(stops + row))
    here = tl.load(
        logits + at[:, None] * (chunks * CHUNK) + position[None],
        mask=live[:, None] & used[None], other=float("-inf"),
    ).to(tl.float32)  # fmt: skip
    share = tl.exp(here - base[:, None]) / tl.where(total > 0, total, 1.0)[:, None]
    mass = tl.sum(tl.where(live[:, None], share, 0.0), 0) / GROUP
    # Logits are rounded to float16 and their sum is not: a mass may come out above 1, which ranks as 1.
    key = tl.minimum(tl.maximum((mass.to(tl.int32, bitcast=True) >> 16) - LEAST, 0), BINS * BINS - 1)
    tl.store(keys + tl.program_id(0).to(tl.int64) * (chunks * CHUNK) + position, key.to(tl.int16), mask=used)
    counted = tl.histogram(key // BINS, BINS, mask=used)
    tl.atomic_add(bins + row * 2 * BINS + tl.arange(0, BINS), counted, mask=counted > 0)


@triton.jit
def _crossing(bins, wanted, BINS: tl.constexpr):
    """The highest digit from which on ``wanted`` keys occur, and how many keys are above it."""
    digit = tl.arange(0, BINS)
    here = tl.load(bins + digit)
    from_here = tl.sum(here, 0) - tl.cumsum(here, 0) + here
    found = tl.max(tl.where(from_here >= wanted, digit, 0), 0)
    return found, tl.sum(tl.where(digit > found, here, 0), 0)


@triton.jit
def _available(starts, stops, wanted, row, KV_HEADS: tl.constexpr):
    """Keys that a row should keep: as many as are wanted and there."""
    there = tl.maximum(tl.load(stops + row) - tl.load(starts + row), 0) * KV_HEADS
    return tl.minimum(tl.load(wanted + row), there)


@triton.jit
def _here(keys, starts, stops, KV_HEADS: tl.constexpr, CHUNK: tl.constexpr):
    """This program's positions, which of them are in the stretch, and their keys."""
    row, span = tl.program_id(0) // KV_HEADS, tl.num_programs(1) * CHUNK
    position = tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)
    used = (position >= tl.load(starts + row)) & (position < tl.load(stops + row))
    at = tl.program_id(0).to(tl.int64) * span + position
    return position, used, tl.load(keys + at, mask=used, other=-1).to(tl.int32)


@triton.jit
def _refine(
    keys, bins, starts, stops, wanted,
    KV_HEADS: tl.constexpr, CHUNK: tl.constexpr, BINS: tl.constexpr,
):  # fmt: skip
    """How often the lower digits occur among the keys of the crossing upper digit."""
    row = tl.program_id(0) // KV_HEADS
    upper, _ = _crossing(bins + row * 2 * BINS, _available(starts, stops, wanted, row, KV_HEADS), BINS)
    _, used, key = _here(keys, starts, stops, KV_HEADS, CHUNK)
    counted = tl.histogram(key % BINS, BINS, mask=used & (key // BINS == upper))
    tl.atomic_add(bins + (row * 2 + 1) * BINS + tl.arange(0, BINS), counted, mask=counted > 0)


@triton.jit
def _threshold(bins, starts, stops, wanted, row, KV_HEADS: tl.constexpr, BINS: tl.constexpr):
    """The smallest key that is kept, and how many of those equal to it are."""
    many = _available(starts, stops, wanted, row, KV_HEADS)
    upper, above = _crossing(bins + row * 2 * BINS, many, BINS)
    lower, more = _crossing(bins + (row * 2 + 1) * BINS, many - above, BINS)
    return upper * BINS + lower, many - above - more


@triton.jit
def _count(
    keys, bins, starts, stops, wanted, found,
    KV_HEADS: tl.constexpr, CHUNK: tl.constexpr, BINS: tl.constexpr,
):  # fmt: skip
    """Keys above the threshold in one head and chunk, and keys equal to it."""
    row = tl.program_id(0) // KV_HEADS
    least, _ = _threshold(bins, starts, stops, wanted, row, KV_HEADS, BINS)
    _, used, key = _here(keys, starts, stops, KV_HEADS, CHUNK)
    to = found + (tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)) * 2
    tl.store(to, tl.sum((used & (key > least)).to(tl.int32), 0))
    tl.store(to + 1, tl.sum((used & (key == least)).to(tl.int32), 0))


@triton.jit
def _write(
    keys, bins, starts, stops, wanted, tables, found, places, counts, most, table_stride,
    KV_HEADS: tl.constexpr, CHUNK: tl.constexpr, BINS: tl.constexpr, PAGE: tl.constexpr, SINKS: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    """The chosen positions of one head and chunk, behind those of the head's earlier chunks."""
    row, head = tl.program_id(0) // KV_HEADS, tl.program_id(0) % KV_HEADS
    chunk, chunks = tl.program_id(1), tl.num_programs(1)
    least, ties = _threshold(bins, starts, stops, wanted, row, KV_HEADS, BINS)
    place = tl.arange(0, WIDE)  # head after head, chunk after chunk
    inside = place < KV_HEADS * chunks
    at = found + (row * KV_HEADS * chunks + place) * 2
    above = tl.load(at, mask=inside, other=0)
    equal = tl.load(at + 1, mask=inside, other=0)
    equal_before = tl.cumsum(equal, 0) - equal
    taken = above + tl.minimum(tl.maximum(ties - equal_before, 0), equal)
    mine = inside & (place // chunks == head)
    offset = tl.sum(tl.where(mine & (place % chunks < chunk), taken, 0), 0)
    to = places + tl.program_id(0).to(tl.int64) * most
    table = tables + row.to(tl.int64) * table_stride
    sink = 0
    if SINKS:
        sink = tl.load(starts + row)
    if chunk == 0:
        tl.store(counts + row * KV_HEADS + head, sink + tl.sum(tl.where(mine, taken, 0), 0))
    ties_left = ties - tl.sum(tl.where(place == head * chunks + chunk, equal_before, 0), 0)

    position, used, key = _here(keys, starts, stops, KV_HEADS, CHUNK)
    if SINKS:
        page = tl.load(table + position // PAGE, mask=position < sink, other=0)
        tl.store(to + position, page * PAGE + position % PAGE, mask=position < sink)
    tied = (used & (key == least)).to(tl.int32)
    kept = (used & (key > least)) | ((tied > 0) & (tl.cumsum(tied, 0) <= ties_left))
    slot = sink + offset + tl.cumsum(kept.to(tl.int32), 0) - 1
    page = tl.load(table + position // PAGE, mask=kept, other=0)
    tl.store(to + slot, page * PAGE + position % PAGE, mask=kept)
