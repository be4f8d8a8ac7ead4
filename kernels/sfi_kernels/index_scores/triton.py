"""Logits of queries with coded keys, many rows in one launch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from sfi_agent.contracts import LayerSpec
from sfi_kernels.index_scores.reference import LOG2_E
from sfi_kernels.index_scores.unfold import table_of, unfolded
from sfi_kernels.overlap import overlapped, release, wait
from sfi_kernels.paging import PAGE, Paged
from sfi_kernels.splits import multiprocessors

CHUNK = 1024
"""Logits come in multiples of this many positions."""
WARPS = 1
"""Of a program, which reads a page at a time. One warp waits for no other."""
STAGES: tl.constexpr = tl.constexpr(5)
"""Of its loads: two pages are on their way, each once its place is loaded."""
RESIDENT = 20
"""Programs that a multiprocessor runs at a time: many hide each other's loads."""
MOST_PARTS = 128
"""Each piece of a choice reads what all of them left."""
QUERIES, TURNED, TURNING = 16, 128 * 128, 8
"""That a program rotates, elements of the rotation at a time, and its warps."""
MOST_FOLDED = 4
"""Positions that share a row of products, so that few heads fill its eight columns."""
LOWEST: tl.constexpr = tl.constexpr(-3e38)
"""Below every logit, and its difference with itself is 0."""


class Scores(NamedTuple):
    """Estimated logits, and what their softmax needs.

    Attributes:
        logits: ``[R, H_kv, chunks * CHUNK, G]`` float16, ``LOG2_E`` times the logits, a position's group of
            query heads side by side; undefined outside a row's stretch.
        stats: ``[2, R, H_kv, parts, G]`` float32: of each part of the stretch, a program's, the highest of
            these, and the sums of ``2 ** (logit - highest)``.
    """

    logits: Tensor
    stats: Tensor


def scores(
    queries: Tensor,
    rotation: Tensor,
    index: Paged,
    starts: Tensor,
    stops: Tensor,
    levels: Sequence[float],
    spec: LayerSpec,
    *,
    longest: int,
) -> Scores:
    """Estimated logits of each row's query with the coded keys of its stretch.

    Args:
        queries: ``[R, H, D]``; D times the bits is a multiple of 32.
        rotation: ``[D, D]`` float32, what the keys were rotated by.
        index: codes ``[..., D * bits / 8]`` uint8 as keys, scales ``[..., 1]`` as values, which are finite in
            all of a page that the stretch is in.
        starts, stops: ``[R]`` int32: estimate the positions from ``start`` up to ``stop``.
        levels: ``2 ** bits``, what each symbol stands for; 1, 2 or 4 bits.
        spec: ``scaling`` and ``softcap`` are applied.
        longest: at least the largest of ``stops``.
    """
    rows, heads, dim = queries.shape
    bits = (len(levels) - 1).bit_length()
    group, chunks, width = heads // index.kv_heads, triton.cdiv(longest, CHUNK), dim * bits // 8
    if dim * bits % 32:
        raise ValueError(f"an index of {bits} bits serves head dims that are multiples of {32 // bits}")
    span = chunks * CHUNK
    parts = parts_for(span, rows * index.kv_heads, queries.device)
    asked = queries.new_empty(rows, heads, dim, dtype=torch.int8)
    steps = queries.new_empty(rows, heads, dtype=torch.float32)
    logits = queries.new_empty(rows, index.kv_heads, span, group, dtype=torch.float16)
    stats = queries.new_empty(2, rows, index.kv_heads, parts, group, dtype=torch.float32)
    table, step = table_of(levels)
    tile, wide = triton.next_power_of_2(group), triton.next_power_of_2(dim)
    fold = min(max(8 // tile, 1), MOST_FOLDED)
    factor = step * spec.scaling * (1.0 if spec.softcap else LOG2_E)
    overlap = overlapped(queries.device)
    _turn[triton.cdiv(rows * heads, QUERIES),](
        queries.contiguous(), rotation, asked, steps, rows * heads, *rotation.stride(),
        BITS=bits, D=dim, TILE=QUERIES, WIDE=wide, COLUMNS=min(wide, TURNED // wide), num_warps=TURNING,
        **overlap,
    )  # fmt: skip
    # Constants, by which the compiler knows that a key's code lies where it may load much at a time.
    c_page, c_head, c_slot = index.key_strides
    _score[rows * index.kv_heads, parts](
        asked, steps, index.keys, index.values, index.tables, starts, stops, logits, stats,
        factor, spec.softcap or 0.0, span, index.tables.stride(0), *index.value_strides,
        C_PAGE=c_page, C_HEAD=c_head, C_SLOT=c_slot, KV_HEADS=index.kv_heads, GROUP=group, BITS=bits,
        D=dim, WIDTH=width, TABLE=table, PAGE=PAGE, TILE=tile, FOLD=fold, LANES=max(8, fold * tile),
        WIDE=max(32, triton.next_power_of_2(width)), CAPPED=spec.softcap is not None,
        LOG2_E=LOG2_E, NATIVE=queries.is_cuda, num_warps=WARPS, **overlap,
    )  # fmt: skip
    return Scores(logits, stats)


def parts_for(span: int, programs: int, device: torch.device) -> int:
    """Parts of a stretch of up to ``span`` positions, so that ``programs`` times as many fill the device."""
    return max(1, min(RESIDENT * multiprocessors(device) // programs, MOST_PARTS, span // PAGE))


@triton.jit
def _turn(
    queries, rotation, asked, steps, count, r_row, r_column,
    BITS: tl.constexpr, D: tl.constexpr, TILE: tl.constexpr, WIDE: tl.constexpr, COLUMNS: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    """Some queries, rotated, as bytes in the order that :func:`unfolded` gives symbols."""
    SYMBOLS: tl.constexpr = 32 // BITS
    TURNS: tl.constexpr = 4 // BITS
    BLOCKS: tl.constexpr = (WIDE + COLUMNS - 1) // COLUMNS
    at = tl.program_id(0) * TILE + tl.arange(0, TILE)
    dims, columns = tl.arange(0, WIDE), tl.arange(0, COLUMNS)
    live = at < count
    q_mask = live[:, None] & (dims[None] < D)
    if BLOCKS == 1:  # no kernel writes it: it is on its way before the queries are there
        turn = _columns(rotation, dims, columns, r_row, r_column, D)
        wait(OVERLAP)
        release(OVERLAP)
        q = tl.load(queries + at[:, None] * D + dims[None], mask=q_mask, other=0.0).to(tl.float32)
        found = (tl.dot(q, turn, input_precision="tf32"),)
    else:
        wait(OVERLAP)
        release(OVERLAP)
        q = tl.load(queries + at[:, None] * D + dims[None], mask=q_mask, other=0.0).to(tl.float32)
        found = ()
        for block in tl.static_range(BLOCKS):
            turn = _columns(rotation, dims, block * COLUMNS + columns, r_row, r_column, D)
            found += (tl.dot(q, turn, input_precision="tf32"),)
    highest = tl.zeros([TILE], tl.float32)
    for block in tl.static_range(BLOCKS):
        highest = tl.maximum(highest, tl.max(tl.abs(found[block]), 1))
    step = tl.maximum(highest, 1e-30) / 127
    tl.store(steps + at, step, mask=live)
    for block in tl.static_range(BLOCKS):
        column = block * COLUMNS + columns
        nibble = column % SYMBOLS // TURNS
        part = column % SYMBOLS % TURNS * 2 + nibble // 4
        place = (part * (D // SYMBOLS) + column // SYMBOLS) * 4 + nibble % 4
        whole = tl.floor(found[block] / step[:, None] + 0.5).to(tl.int8)
        tl.store(asked + at[:, None] * D + place[None], whole, mask=live[:, None] & (column[None] < D))


@triton.jit
def _columns(rotation, dims, column, r_row, r_column, D: tl.constexpr):
    """``[WIDE, COLUMNS]`` of the rotation."""
    at = rotation + dims[:, None] * r_row + column[None] * r_column
    return tl.load(at, mask=(dims[:, None] < D) & (column[None] < D), other=0.0)


@triton.jit
def _spread(scale, lanes, ROWS: tl.constexpr, TILE: tl.constexpr, FOLD: tl.constexpr):
    """``[ROWS, LANES]``, of each position its scale, of ``[ROWS * FOLD]``."""
    if FOLD == 1:
        return scale[:, None]
    elif FOLD == 2:
        even, odd = tl.split(tl.reshape(scale, [ROWS, 2]))
        return tl.where((lanes // TILE == 0)[None], even[:, None], odd[:, None])
    else:
        even, odd = tl.split(tl.reshape(scale, [ROWS, 2, 2]))
        first, third = tl.split(even)
        second, fourth = tl.split(odd)
        fold = (lanes // TILE)[None]
        low = tl.where(fold == 0, first[:, None], second[:, None])
        return tl.where(fold < 2, low, tl.where(fold == 2, third[:, None], fourth[:, None]))


@triton.jit
def _score(
    asked, steps, codes, scales, tables, starts, stops, logits, stats,
    factor, softcap, span, table_stride, s_page, s_head, s_slot,
    C_PAGE: tl.constexpr, C_HEAD: tl.constexpr, C_SLOT: tl.constexpr,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, BITS: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr,
    TABLE: tl.constexpr, PAGE: tl.constexpr, TILE: tl.constexpr, FOLD: tl.constexpr, LANES: tl.constexpr,
    WIDE: tl.constexpr, CAPPED: tl.constexpr, LOG2_E: tl.constexpr, NATIVE: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    """One row and KV head, one part of its stretch, page by page.

    A key's bytes are unfolded into 8 / BITS times as many levels in bytes, which meet the query in as many
    products of matrices. A row of products is FOLD positions side by side, each with its TILE of heads.
    """
    PARTS: tl.constexpr = 8 // BITS
    ROWS: tl.constexpr = PAGE // FOLD
    wait(OVERLAP)
    release(OVERLAP)
    row, head = tl.program_id(0) // KV_HEADS, tl.program_id(0) % KV_HEADS
    part, parts = tl.program_id(1), tl.num_programs(1)
    start, stop = tl.load(starts + row), tl.load(stops + row)
    slots, rows, places, lanes = (
        tl.arange(0, PAGE),
        tl.arange(0, ROWS),
        tl.arange(0, WIDE),
        tl.arange(0, LANES),
    )
    mine, fold = lanes % TILE, lanes // TILE
    real = (mine < GROUP) & (fold < FOLD)
    size = tl.load(steps + tl.program_id(0) * GROUP + mine, mask=real, other=1.0) * factor
    q_at = asked + (tl.program_id(0) * GROUP + mine)[None] * D + places[:, None]
    q_mask = (places[:, None] < WIDTH) & real[None]
    queries = ()
    for folded in tl.static_range(FOLD):
        for each in tl.static_range(PARTS):
            queries += (tl.load(q_at + each * WIDTH, mask=q_mask & (fold[None] == folded), other=0),)

    first = start // PAGE
    last = tl.where(start < stop, tl.cdiv(stop, PAGE), first)
    each = tl.cdiv(last - first, parts)
    begin = first + part * each
    table = tables + row.to(tl.int64) * table_stride
    codes += head * C_HEAD
    scales += head * s_head
    logits += tl.program_id(0).to(tl.int64) * span * GROUP
    # Of every eighth row, as a thread holds them: sums over threads are made once, at the end.
    top = tl.full([8, LANES], LOWEST, tl.float32)
    total = tl.zeros([8, LANES], tl.float32)
    # Said here and not at the launch, so that the scales, which no product reads, run ahead, too.
    for block in tl.range(begin, tl.minimum(begin + each, last), num_stages=STAGES):
        page = tl.load(table + block).to(tl.int64)
        scale = tl.load(scales + page * s_page + slots * s_slot)
        products = tl.zeros([ROWS, LANES], tl.int32)
        for folded in tl.static_range(FOLD):
            source = codes + page * C_PAGE + (rows * FOLD + folded)[:, None] * C_SLOT
            code = tl.load(
                source + places[None], mask=places[None] < WIDTH, other=0, eviction_policy="evict_first"
            )
            for each_part in tl.static_range(PARTS):
                level = unfolded(code, source, places, each_part, BITS, WIDTH, TABLE, NATIVE)
                products = tl.dot(level, queries[folded * PARTS + each_part], products, out_dtype=tl.int32)
        position = block * PAGE + rows[:, None] * FOLD + fold[None]
        inside = (position - start).to(tl.uint32) < (stop - start).to(tl.uint32)
        if FOLD * TILE < LANES:
            inside &= real[None]
        beyond = tl.where(inside, 0.0, float("-inf"))
        found = (products.to(tl.float32) * _spread(scale, lanes, ROWS, TILE, FOLD) + beyond) * size[None]
        if CAPPED:  # softcap * tanh(found / softcap)
            found = softcap * (2 * tl.sigmoid(2 * found / softcap) - 1) * LOG2_E + beyond
        tl.store(logits + position * GROUP + mine[None], found.to(tl.float16), mask=real[None])
        found = tl.reshape(found, [ROWS // 8, 8, LANES])
        higher = tl.maximum(top, tl.max(found, 0))
        total = total * tl.exp2(top - higher) + tl.sum(tl.exp2(found - higher[None]), 0)
        top = higher
    tops = tl.reshape(
        tl.trans(tl.reshape(top, [8, LANES // TILE, TILE]), [2, 0, 1]), [TILE, 8 * LANES // TILE]
    )
    totals = tl.reshape(
        tl.trans(tl.reshape(total, [8, LANES // TILE, TILE]), [2, 0, 1]), [TILE, 8 * LANES // TILE]
    )
    highest = tl.max(tops, 1)
    total = tl.sum(totals * tl.exp2(tops - highest[:, None]), 1)
    lane = tl.arange(0, TILE)
    stat = stats + (tl.program_id(0) * parts + part) * GROUP + lane
    tl.store(stat, highest, mask=lane < GROUP)
    tl.store(stat + tl.num_programs(0) * parts * GROUP, total, mask=lane < GROUP)
