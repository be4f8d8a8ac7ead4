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
from sfi_kernels.rounding import cdiv, next_power_of_2
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
COLUMNS = 16
"""Of the rotation, for a program."""
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
    firsts: Tensor | None = None,
) -> Scores:
    """Estimated logits of each row's query with the coded keys of its stretch.

    Args:
        queries: ``[R, H, D]``, or ``[T, H, D]`` with ``firsts``; D times the bits is a multiple of 32.
        rotation: ``[D, D]`` float32, what the keys were rotated by.
        index: codes ``[..., D * bits / 8]`` uint8 as keys, scales ``[..., 1]`` as values, which are finite in
            all of a page that the stretch is in.
        starts, stops: ``[R]`` int32: estimate the positions from ``start`` up to ``stop``.
        levels: ``2 ** bits``, what each symbol stands for; 1, 2 or 4 bits.
        spec: ``scaling`` and ``softcap`` are applied.
        longest: at least the largest of ``stops``.
        firsts: as in :class:`sfi_kernels.spans.Spans`: the last query of each row is taken.
    """
    rows, (_, heads, dim) = len(starts), queries.shape
    bits = (len(levels) - 1).bit_length()
    group, chunks, width = heads // index.kv_heads, cdiv(longest, CHUNK), dim * bits // 8
    if dim * bits % 32:
        raise ValueError(f"an index of {bits} bits serves head dims that are multiples of {32 // bits}")
    span = chunks * CHUNK
    parts = parts_for(span, rows * index.kv_heads, queries.device)
    turned = queries.new_empty(rows, heads, dim, dtype=torch.float32)
    logits = queries.new_empty(rows, index.kv_heads, span, group, dtype=torch.float16)
    stats = queries.new_empty(2, rows, index.kv_heads, parts, group, dtype=torch.float32)
    table, step = table_of(levels)
    factor = step * spec.scaling * (1.0 if spec.softcap else LOG2_E)
    overlap = overlapped(queries.device)
    # On tensor cores, for which heads of 256 have too few registers.
    precision, warps = ("tf32x3", 2) if dim <= 128 else ("ieee", 8)
    queries = queries if queries.stride()[1:] == (dim, 1) else queries.contiguous()
    _turn[cdiv(rows * heads, 16), cdiv(dim, COLUMNS)](
        queries, queries if firsts is None else firsts, rotation, turned, rows * heads, queries.stride(0),
        *rotation.stride(), BITS=bits, D=dim, HEADS=heads, TILE=16, WIDE=next_power_of_2(dim),
        COLUMNS=COLUMNS, PRECISION=precision, RAGGED=firsts is not None, num_warps=warps, **overlap,
    )  # fmt: skip
    # Constants, by which the compiler knows that a key's code lies where it may load much at a time.
    c_page, c_head, c_slot = index.key_strides
    _score[rows * index.kv_heads, parts](
        turned, index.keys, index.values, index.tables, starts, stops, logits, stats,
        factor, spec.softcap or 0.0, span, index.tables.stride(0), *index.value_strides,
        C_PAGE=c_page, C_HEAD=c_head, C_SLOT=c_slot, KV_HEADS=index.kv_heads, GROUP=group, BITS=bits,
        D=dim, WIDTH=width, TABLE=table, PAGE=PAGE, LANES=max(8, next_power_of_2(group)),
        WIDE=max(32, next_power_of_2(width)), CAPPED=spec.softcap is not None,
        LOG2_E=LOG2_E, NATIVE=queries.is_cuda, num_warps=WARPS, **overlap,
    )  # fmt: skip
    return Scores(logits, stats)


def parts_for(span: int, programs: int, device: torch.device) -> int:
    """Parts of a stretch of up to ``span`` positions, so that ``programs`` times as many fill the device."""
    return max(1, min(RESIDENT * multiprocessors(device) // programs, MOST_PARTS, span // PAGE))


@triton.jit
def _turn(
    queries, firsts, rotation, turned, count, q_row, r_row, r_column,
    BITS: tl.constexpr, D: tl.constexpr, HEADS: tl.constexpr, TILE: tl.constexpr, WIDE: tl.constexpr,
    COLUMNS: tl.constexpr, PRECISION: tl.constexpr, RAGGED: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Some queries times some columns of the rotation, in the order that :func:`unfolded` gives symbols."""
    SYMBOLS: tl.constexpr = 32 // BITS
    TURNS: tl.constexpr = 4 // BITS
    at = tl.program_id(0) * TILE + tl.arange(0, TILE)
    dims, column = tl.arange(0, WIDE), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    turn = tl.load(
        rotation + dims[:, None] * r_row + column[None] * r_column,
        mask=(dims[:, None] < D) & (column[None] < D),
        other=0.0,
    )
    wait(OVERLAP)
    release(OVERLAP)
    live = at[:, None] < count
    row = at // HEADS
    if RAGGED:
        row = tl.maximum(tl.load(firsts + row + 1, mask=at < count, other=1) - 1, 0)
    q_at = row.to(tl.int64) * q_row + at % HEADS * D
    q = tl.load(queries + q_at[:, None] + dims[None], mask=live & (dims[None] < D), other=0.0)
    found = tl.dot(q.to(tl.float32), turn, input_precision=PRECISION)
    nibble = column % SYMBOLS // TURNS
    part = column % SYMBOLS % TURNS * 2 + nibble // 4
    place = (part * (D // SYMBOLS) + column // SYMBOLS) * 4 + nibble % 4
    tl.store(turned + at[:, None] * D + place[None], found, mask=live & (column[None] < D))


@triton.jit
def _score(
    turned, codes, scales, tables, starts, stops, logits, stats,
    factor, softcap, span, table_stride, s_page, s_head, s_slot,
    C_PAGE: tl.constexpr, C_HEAD: tl.constexpr, C_SLOT: tl.constexpr,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, BITS: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr,
    TABLE: tl.constexpr, PAGE: tl.constexpr, LANES: tl.constexpr, WIDE: tl.constexpr,
    CAPPED: tl.constexpr, LOG2_E: tl.constexpr, NATIVE: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """One row and KV head, one part of its stretch, page by page.

    A key's bytes are unfolded into 8 / BITS times as many levels in bytes, which meet the query in as many
    products of matrices.
    """
    PARTS: tl.constexpr = 8 // BITS
    wait(OVERLAP)
    release(OVERLAP)
    row, head = tl.program_id(0) // KV_HEADS, tl.program_id(0) % KV_HEADS
    part, parts = tl.program_id(1), tl.num_programs(1)
    start, stop = tl.load(starts + row), tl.load(stops + row)
    slots, places, lanes = tl.arange(0, PAGE), tl.arange(0, WIDE), tl.arange(0, LANES)
    at = tl.program_id(0) * GROUP + lanes
    real = (places[:, None] < WIDTH) & (lanes[None] < GROUP)
    q_at = turned + at[None] * D + places[:, None]
    highest = tl.zeros([LANES], tl.float32)
    for each in tl.static_range(PARTS):
        q = tl.load(q_at + each * WIDTH, mask=real, other=0.0)
        highest = tl.maximum(highest, tl.max(tl.abs(q), 0))
    step = tl.maximum(highest, 1e-30) / 127
    asked = ()
    for each in tl.static_range(PARTS):
        q = tl.load(q_at + each * WIDTH, mask=real, other=0.0)
        asked += (tl.floor(q / step[None] + 0.5).to(tl.int8),)
    size = step * factor

    first = start // PAGE
    last = tl.where(start < stop, tl.cdiv(stop, PAGE), first)
    each = tl.cdiv(last - first, parts)
    begin = first + part * each
    table = tables + row.to(tl.int64) * table_stride
    codes += head * C_HEAD
    scales += head * s_head
    logits += tl.program_id(0).to(tl.int64) * span * GROUP
    # Of every eighth position, as a thread holds them: sums over threads are made once, at the end.
    top = tl.full([8, LANES], LOWEST, tl.float32)
    total = tl.zeros([8, LANES], tl.float32)
    # Said here and not at the launch, so that the scales, which no product reads, run ahead, too.
    for block in tl.range(begin, tl.minimum(begin + each, last), num_stages=STAGES):
        page = tl.load(table + block).to(tl.int64)
        source = codes + page * C_PAGE + slots[:, None] * C_SLOT
        code = tl.load(
            source + places[None], mask=places[None] < WIDTH, other=0, eviction_policy="evict_first"
        )
        scale = tl.load(scales + page * s_page + slots * s_slot).to(tl.float32)
        products = tl.zeros([PAGE, LANES], tl.int32)
        for each_part in tl.static_range(PARTS):
            level = unfolded(code, source, places, each_part, BITS, WIDTH, TABLE, NATIVE)
            products = tl.dot(level, asked[each_part], products, out_dtype=tl.int32)
        inside = (block * PAGE - start + slots).to(tl.uint32) < (stop - start).to(tl.uint32)
        beyond = tl.where(inside, 0.0, float("-inf"))
        found = (products.to(tl.float32) * scale[:, None] + beyond[:, None]) * size[None]
        if CAPPED:  # softcap * tanh(found / softcap)
            found = softcap * (2 * tl.sigmoid(2 * found / softcap) - 1) * LOG2_E + beyond[:, None]
        to = logits + (block * PAGE + slots)[:, None] * GROUP + lanes[None]
        tl.store(to, found.to(tl.float16), mask=lanes[None] < GROUP)
        found = tl.reshape(found, [PAGE // 8, 8, LANES])
        higher = tl.maximum(top, tl.max(found, 0))
        total = total * tl.exp2(top - higher) + tl.sum(tl.exp2(found - higher[None]), 0)
        top = higher
    highest = tl.max(top, 0)
    total = tl.sum(total * tl.exp2(top - highest[None]), 0)
    stat = stats + (tl.program_id(0) * parts + part) * GROUP + lanes
    tl.store(stat, highest, mask=lanes < GROUP)
    tl.store(stat + tl.num_programs(0) * parts * GROUP, total, mask=lanes < GROUP)
