"""The highest scores of each row, exactly: the smallest one kept is sought bit by bit, by one program a row.

What a selector chooses at a slow step. A second launch writes the places above the smallest, and of its
equals the first ones. Of a row that a program cannot hold, first the highest of its parts are found.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sfi_kernels.rounding import cdiv, next_power_of_2

HELD = 32 * 1024
"""Scores that a program holds in its registers: where so many are not enough, they are read for each bit."""
EACH = 64
"""Of them, of a thread."""
WRITTEN = 2048
"""Scores of which a program writes the places."""


def highest(scores: Tensor, count: int, start: int = 0) -> Tensor:
    """Places of the ``count`` highest of each row, ascending, the earlier of equals.

    Args:
        scores: ``[..., P]`` float32, no NaN.
        count: ``0 < count <= P``.
        start: the first place.

    Returns:
        ``[..., count]`` int64.
    """
    scores = scores.contiguous()
    if scores.shape[-1] <= HELD or count > HELD // 4:
        return _of_parts(scores, 1, count, start)
    some = _of_parts(scores, cdiv(scores.shape[-1], HELD), count, 0)
    return some.gather(-1, highest(scores.gather(-1, some), count)) + start


def _of_parts(scores: Tensor, parts: int, count: int, start: int) -> Tensor:
    """``[..., parts * count]``: the ``count`` highest of each of as many parts of a row."""
    *lead, places = scores.shape
    rows, device, each = scores.numel() // places * parts, scores.device, cdiv(places, parts)
    block = min(HELD, max(256, next_power_of_2(each)))
    written = min(WRITTEN, block)
    pieces = cdiv(each, written)
    out = torch.empty(*lead, parts * count, dtype=torch.int64, device=device)
    smallest = torch.empty(rows, 2, dtype=torch.int32, device=device)
    before = torch.empty(rows, 2, pieces, dtype=torch.int32, device=device)
    _smallest[rows,](
        scores, smallest, before, parts, places, each, count, pieces, BLOCK=block, HELD=each <= block,
        COUNTED=max(written, block // 2), WRITTEN=written, num_warps=max(4, min(32, block // (32 * EACH))),
    )  # fmt: skip
    _write[rows, pieces](
        scores, smallest, before, out, parts, places, each, count, start, WRITTEN=written, num_warps=8
    )
    return out


@triton.jit
def _part(parts, places, each):
    """Where one of a row's parts begins in all, and in the row, and how long it is."""
    row, part = tl.program_id(0).to(tl.int64) // parts, tl.program_id(0) % parts
    return row * places + part * each, part * each, tl.minimum(each, places - part * each)


@triton.jit
def _ranked(scores, places, first, BLOCK: tl.constexpr):
    """Whole numbers of 32 bits that rank as the scores do, 0 where there is none, and which are there."""
    place = first + tl.arange(0, BLOCK)
    inside = place < places
    bits = tl.load(scores + place, mask=inside, other=0.0).to(tl.int32, bitcast=True)
    bits = tl.where(bits == -2147483648, 0, bits)  # -0 equals 0
    ranked = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.uint32, bitcast=True) ^ 0x80000000
    return tl.where(inside, ranked, 0), inside, place


@triton.jit(do_not_specialize=["parts", "places", "each", "wanted", "pieces"])
def _smallest(
    scores, found, before, parts, places, each, wanted, pieces, BLOCK: tl.constexpr, HELD: tl.constexpr,
    COUNTED: tl.constexpr, WRITTEN: tl.constexpr,
):  # fmt: skip
    """The smallest number kept of a part, how many of its equals are, and what each piece comes behind.

    That is how many are above the smallest in the pieces before it, and how many are its equals.
    """
    at, _, length = _part(parts, places, each)
    scores += at
    found, before = found + tl.program_id(0) * 2, before + tl.program_id(0) * 2 * pieces
    held, _, _ = _ranked(scores, length, 0, BLOCK)
    smallest = tl.full([], 0, tl.uint32)
    for turn in range(32):
        higher = smallest + (tl.full([], 1, tl.uint32) << (31 - turn))
        reached = tl.sum((held >= higher).to(tl.int32), 0)
        if not HELD:
            for first in range(BLOCK, length, BLOCK):
                ranked, _, _ = _ranked(scores, length, first, BLOCK)
                reached += tl.sum((ranked >= higher).to(tl.int32), 0)
        smallest = tl.where(reached >= wanted, higher, smallest)
    above, equals = 0, 0
    for first in range(0, length, COUNTED):  # half of what is held, or there are too few registers
        own, inside, _places = _ranked(scores, length, first, COUNTED)
        # One sum of both: of those above in the lower half, of equals in the upper.
        both = tl.where(own > smallest, 1, tl.where(inside & (own == smallest), 1 << 16, 0))
        both = tl.sum(tl.reshape(both, [COUNTED // WRITTEN, WRITTEN]), 1)
        piece, higher, equal = first // WRITTEN + tl.arange(0, COUNTED // WRITTEN), both & 0xFFFF, both >> 16
        tl.store(before + piece, above + tl.cumsum(higher, 0) - higher, mask=piece < pieces)
        tl.store(before + pieces + piece, equals + tl.cumsum(equal, 0) - equal, mask=piece < pieces)
        above += tl.sum(higher, 0)
        equals += tl.sum(equal, 0)
    tl.store(found, smallest.to(tl.int32, bitcast=True))
    tl.store(found + 1, wanted - above)


@triton.jit(do_not_specialize=["parts", "places", "each", "count", "start"])
def _write(scores, found, before, out, parts, places, each, count, start, WRITTEN: tl.constexpr):
    """The places of one piece of a part that are kept, behind those of the pieces before it."""
    at, begin, length = _part(parts, places, each)
    piece, pieces = tl.program_id(1), tl.num_programs(1)
    found, before = found + tl.program_id(0) * 2, before + tl.program_id(0) * 2 * pieces + piece
    ranked, inside, place = _ranked(scores + at, length, piece * WRITTEN, WRITTEN)
    smallest, ties = tl.load(found).to(tl.uint32, bitcast=True), tl.load(found + 1)
    above, equals = tl.load(before), tl.load(before + pieces)
    higher, equal = ranked > smallest, inside & (ranked == smallest)
    seen = tl.cumsum(higher.to(tl.int32) + (equal.to(tl.int32) << 16), 0)
    tied = equals + (seen >> 16)
    slot = above + (seen & 0xFFFF) + tl.minimum(tied, ties) - 1
    to = out + tl.program_id(0).to(tl.int64) * count + slot
    tl.store(to, start + begin + place.to(tl.int64), mask=higher | (equal & (tied <= ties)))
