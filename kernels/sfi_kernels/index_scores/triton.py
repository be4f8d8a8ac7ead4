"""Logits of queries with coded keys, many rows in one launch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from sfi_agent.contracts import LayerSpec
from sfi_kernels.paging import PAGE, Paged
from sfi_kernels.splits import multiprocessors

CHUNK = 1024
"""Logits come in multiples of this many positions."""
BLOCK, WARPS = 64, 1
"""Of a program: positions at a time, and warps. One warp waits for no other; many programs hide its loads."""
RESIDENT = 32
"""Programs that a multiprocessor runs at a time."""
MOST_PARTS = 128
"""Each chunk of a choice reads what all of them left."""


class Scores(NamedTuple):
    """Estimated logits, and what their softmax needs.

    Attributes:
        logits: ``[R, H, chunks * CHUNK]`` float16 by position; undefined outside a row's stretch.
        stats: ``[R, H, parts, 2]`` float32: of each part of the stretch, a program's, the highest logit and
            the sum of ``exp(logit - highest)``.
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
        index: codes ``[..., D * bits / 8]`` uint8 as keys, scales ``[..., 1]`` as values.
        starts, stops: ``[R]`` int32: estimate the positions from ``start`` up to ``stop``.
        levels: ``2 ** bits``, what each symbol stands for; 1, 2 or 4 bits.
        spec: ``scaling`` and ``softcap`` are applied.
        longest: at least the largest of ``stops``.
    """
    rows, heads, dim = queries.shape
    bits = (len(levels) - 1).bit_length()
    group, chunks, words = heads // index.kv_heads, triton.cdiv(longest, CHUNK), dim * bits // 32
    if words * 32 != dim * bits:
        raise ValueError(f"an index of {bits} bits serves head dims that are multiples of {32 // bits}")
    span = chunks * CHUNK
    parts = parts_for(span, rows * index.kv_heads, queries.device)
    asked = queries.new_empty(rows, heads, 8 // bits * words, dtype=torch.int32)
    steps = queries.new_empty(rows, heads, dtype=torch.float32)
    logits = queries.new_empty(rows, heads, span, dtype=torch.float16)
    stats = queries.new_empty(rows, heads, parts, 2, dtype=torch.float32)
    table, step = _table(levels)
    constants = {"HEADS": heads, "KV_HEADS": index.kv_heads, "GROUP": group, "BITS": bits, "WORDS": words}
    _ask[rows * index.kv_heads,](
        queries.contiguous(), rotation, asked.view(torch.int8), steps, step * spec.scaling,
        *rotation.stride(), **constants, D=dim, TILE=max(16, triton.next_power_of_2(group)),
        WIDE=triton.next_power_of_2(dim), num_warps=4,
    )  # fmt: skip
    codes = index.keys.view(torch.int32)
    # Constants, by which the compiler knows that a key's words lie where it may load several at a time.
    c_page, c_head, c_slot = (stride // 4 for stride in index.key_strides)
    _score[rows * index.kv_heads, parts](
        asked, steps, codes, index.values, index.tables, starts, stops, logits, stats,
        *table, spec.softcap or 0.0, span, index.tables.stride(0), *index.value_strides,
        C_PAGE=c_page, C_HEAD=c_head, C_SLOT=c_slot, **constants, PAGE=PAGE, BLOCK=BLOCK,
        LANES=triton.next_power_of_2(group), WIDE=triton.next_power_of_2(words),
        CAPPED=spec.softcap is not None, NATIVE=queries.is_cuda, num_warps=WARPS,
    )  # fmt: skip
    return Scores(logits, stats)


def parts_for(span: int, programs: int, device: torch.device) -> int:
    """Parts of a stretch of up to ``span`` positions, so that ``programs`` times as many fill the device."""
    return max(1, min(RESIDENT * multiprocessors(device) // programs, MOST_PARTS, span // BLOCK))


def _table(levels: Sequence[float]) -> tuple[list[int], float]:
    """The levels as 16 signed bytes in four words, and the step that these count."""
    step = max(abs(level) for level in levels) / 127
    found = [int(level / step + 127.5) - 127 for level in levels] + [0] * (16 - len(levels))
    packed = bytes(level & 0xFF for level in found)
    return [int.from_bytes(packed[i : i + 4], "little", signed=True) for i in range(0, 16, 4)], step


@triton.jit
def _ask(
    queries, rotation, asked, steps, factor, r_row, r_column,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, GROUP: tl.constexpr, BITS: tl.constexpr, WORDS: tl.constexpr,
    D: tl.constexpr, TILE: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """One row and KV head: its queries rotated, in bytes, ordered as :func:`_score` unfolds a word."""
    SYMBOLS: tl.constexpr = 32 // BITS
    TURNS: tl.constexpr = 4 // BITS
    row, head = tl.program_id(0) // KV_HEADS, tl.program_id(0) % KV_HEADS
    lane, dims = tl.arange(0, TILE), tl.arange(0, WIDE)
    live = lane < GROUP
    at = row * HEADS + head * GROUP + lane
    inside = live[:, None] & (dims[None] < D)
    q = tl.load(queries + at[:, None] * D + dims[None], mask=inside, other=0.0).to(tl.float32)
    turn = tl.load(
        rotation + dims[:, None] * r_row + dims[None] * r_column,
        mask=(dims[:, None] < D) & (dims[None] < D),
        other=0.0,
    )
    turned = tl.dot(q, turn, input_precision="tf32x3")
    step = tl.maximum(tl.max(tl.abs(turned), 1), 1e-30) / 127
    found = tl.floor(turned / step[:, None] + 0.5).to(tl.int8)
    symbol = dims % SYMBOLS
    nibble = symbol // TURNS
    part = symbol % TURNS * 2 + nibble // 4
    place = (part * WORDS + dims // SYMBOLS) * 4 + nibble % 4
    tl.store(asked + at[:, None] * (8 * TURNS * WORDS) + place[None], found, mask=inside)
    tl.store(steps + at, step * factor, mask=live)


@triton.jit
def _bytes(selectors, low, high, NATIVE: tl.constexpr):
    """Four bytes of the eight in ``low`` and ``high``, chosen by the lower four nibbles (below 8) of each."""
    if NATIVE:
        found = tl.inline_asm_elementwise(
            "prmt.b32 $0, $2, $3, $1;",
            "=r,r,r,r",
            [selectors, low, high],
            dtype=tl.int32,
            is_pure=True,
            pack=1,
        )
    else:
        found = selectors * 0
        for byte in tl.static_range(4):
            chosen = (selectors >> (4 * byte)) & 7
            word = tl.where(chosen < 4, low, high)
            found |= ((word >> (8 * (chosen % 4))) & 0xFF) << (8 * byte)
    return found


@triton.jit
def _dot4(a, b, total, NATIVE: tl.constexpr):
    """``total`` plus the products of four signed bytes with four."""
    if NATIVE:
        total = tl.inline_asm_elementwise(
            "dp4a.s32.s32 $0, $1, $2, $3;", "=r,r,r,r", [a, b, total], dtype=tl.int32, is_pure=True, pack=1
        )
    else:
        for byte in tl.static_range(4):
            total += ((a << (24 - 8 * byte)) >> 24) * ((b << (24 - 8 * byte)) >> 24)
    return total


@triton.jit
def _score(
    asked, steps, codes, scales, tables, starts, stops, logits, stats, table_0, table_1, table_2, table_3,
    softcap, span, table_stride, s_page, s_head, s_slot,
    C_PAGE: tl.constexpr, C_HEAD: tl.constexpr, C_SLOT: tl.constexpr,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, GROUP: tl.constexpr, BITS: tl.constexpr, WORDS: tl.constexpr,
    PAGE: tl.constexpr, BLOCK: tl.constexpr, LANES: tl.constexpr, WIDE: tl.constexpr,
    CAPPED: tl.constexpr, NATIVE: tl.constexpr,
):  # fmt: skip
    """One row and KV head, one part of its stretch, block by block.

    A word is unfolded into nibbles, one symbol in each, and these choose bytes from the table of levels. The
    words of a key stay with the thread that loaded them: head after head, so that none of it has three axes.
    """
    TURNS: tl.constexpr = 4 // BITS
    ONES: tl.constexpr = 0x11111111 * (2**BITS - 1) if BITS < 4 else 0x77777777
    row, head = tl.program_id(0) // KV_HEADS, tl.program_id(0) % KV_HEADS
    part, parts = tl.program_id(1), tl.num_programs(1)
    start, stop = tl.load(starts + row), tl.load(stops + row)
    first = start // BLOCK
    each = tl.cdiv(tl.cdiv(stop, BLOCK) - first, parts)
    begin = first + part * each
    lanes, words = tl.arange(0, LANES), tl.arange(0, WIDE)
    inside = words < WORDS
    at = (row * HEADS + head * GROUP).to(tl.int64)
    table = tables + row.to(tl.int64) * table_stride
    top = tl.full([LANES], float("-inf"), tl.float32)
    total = tl.zeros([LANES], tl.float32)
    for block in range(begin, tl.minimum(begin + each, tl.cdiv(stop, BLOCK))):
        position = block * BLOCK + tl.arange(0, BLOCK)
        used = (position >= start) & (position < stop)
        page = tl.load(table + position // PAGE, mask=used, other=0).to(tl.int64)
        slot = position % PAGE
        c_at = (page * C_PAGE + head * C_HEAD + slot * C_SLOT)[:, None] + words[None]
        word = tl.load(codes + c_at, mask=used[:, None] & inside[None], other=0)
        scale = tl.load(scales + page * s_page + head * s_head + slot * s_slot, mask=used, other=0.0)
        tops = tl.zeros([LANES], tl.float32)
        totals = tl.zeros([LANES], tl.float32)
        for lane in tl.static_range(GROUP):
            products = tl.zeros([BLOCK, WIDE], tl.int32)
            for turn in tl.static_range(TURNS):
                unfolded = (word >> (turn * BITS)) & ONES
                for half in tl.static_range(2):
                    chosen = unfolded >> (16 * half)
                    level = _bytes(chosen, table_0, table_1, NATIVE)
                    if BITS == 4:
                        upper = _bytes(chosen, table_2, table_3, NATIVE)
                        which = _bytes((word >> (16 * half + 3)) & 0x1111, 0xFF00, 0, NATIVE)
                        level = (level & ~which) | (upper & which)
                    q_at = asked + ((at + lane) * 2 * TURNS + turn * 2 + half) * WORDS + words
                    q = tl.load(q_at, mask=inside, other=0)
                    products = _dot4(level, q[None], products, NATIVE)
            size = tl.load(steps + at + lane)
            found = tl.sum(products, 1).to(tl.float32) * size * scale.to(tl.float32)
            if CAPPED:  # softcap * tanh(found / softcap)
                found = softcap * (2 * tl.sigmoid(2 * found / softcap) - 1)
            found = tl.where(used, tl.minimum(tl.maximum(found, -60000.0), 60000.0), float("-inf"))
            tl.store(logits + (at + lane) * span + position, found.to(tl.float16), mask=used)
            highest = tl.max(found, 0)
            tops = tl.where(lanes == lane, highest, tops)
            totals = tl.where(lanes == lane, tl.sum(tl.exp(found - highest), 0), totals)
        higher = tl.maximum(top, tops)
        total = total * tl.exp(top - higher) + totals * tl.exp(tops - higher)
        top = higher
    stat = stats + ((at + lanes) * parts + part) * 2
    tl.store(stat, top, mask=lanes < GROUP)
    tl.store(stat + 1, total, mask=lanes < GROUP)
