"""The highest scores of each row, exactly: the smallest one kept is sought bit by bit, by one program a row.

What a selector chooses at a slow step. Two bits at a time it is found how high a score may be that enough of
them reach; a last pass writes the places above it, and of its equals the first ones.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

HELD = 32 * 1024
"""Scores that a program holds in its registers: a row of more is read anew for each two bits."""
EACH = 32
"""Of them, of a thread, about: more programs run at a time."""
WRITTEN = 2048
"""Places that are written at a time."""


def highest(scores: Tensor, count: int, start: int = 0) -> Tensor:
    """Places of the ``count`` highest of each row, ascending, the earlier of equals.

    Args:
        scores: ``[..., P]`` float32, no NaN.
        count: ``0 < count <= P``.
        start: the first place.

    Returns:
        ``[..., count]`` int64.
    """
    *lead, places = scores.shape
    scores = scores.contiguous()
    out = torch.empty(*lead, count, dtype=torch.int64, device=scores.device)
    block = min(HELD, max(256, triton.next_power_of_2(places)))
    _highest[scores.numel() // places,](
        scores, out, places, count, start, BLOCK=block, HELD=places <= block, WRITTEN=min(WRITTEN, block),
        num_warps=max(4, min(16, block // (32 * EACH))),
    )  # fmt: skip
    return out


@triton.jit
def _ranked(scores, places, first, BLOCK: tl.constexpr):
    """Whole numbers of 32 bits that rank as the scores do, 0 where there is none, and which are there."""
    place = first + tl.arange(0, BLOCK)
    inside = place < places
    bits = tl.load(scores + place, mask=inside, other=0.0).to(tl.int32, bitcast=True)
    bits = tl.where(bits == -2147483648, 0, bits)  # -0 equals 0
    ranked = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.uint32, bitcast=True) ^ 0x80000000
    return tl.where(inside, ranked, 0), inside, place


@triton.jit
def _reaching(ranked, smallest, shift):
    """How many reach each of the next three numbers of two more bits."""
    step = tl.full([], 1, tl.uint32) << shift
    one = tl.sum((ranked >= smallest + step).to(tl.int32), 0)
    two = tl.sum((ranked >= smallest + 2 * step).to(tl.int32), 0)
    return one, two, tl.sum((ranked >= smallest + 3 * step).to(tl.int32), 0)


@triton.jit
def _highest(
    scores, out, places, count, start, BLOCK: tl.constexpr, HELD: tl.constexpr, WRITTEN: tl.constexpr
):
    scores += tl.program_id(0).to(tl.int64) * places
    out += tl.program_id(0).to(tl.int64) * count
    held, _, _ = _ranked(scores, places, 0, BLOCK)
    smallest = tl.full([], 0, tl.uint32)
    for turn in range(16):
        shift = 30 - 2 * turn
        one, two, three = _reaching(held, smallest, shift)
        if not HELD:
            for first in range(BLOCK, places, BLOCK):
                ranked, _, _ = _ranked(scores, places, first, BLOCK)
                more_one, more_two, more_three = _reaching(ranked, smallest, shift)
                one, two, three = one + more_one, two + more_two, three + more_three
        digit = (one >= count).to(tl.uint32) + (two >= count).to(tl.uint32) + (three >= count).to(tl.uint32)
        smallest += digit << shift
    above_all = 0
    for first in range(0, places, BLOCK):
        ranked, inside, _ = _ranked(scores, places, first, BLOCK)
        above_all += tl.sum((inside & (ranked > smallest)).to(tl.int32), 0)
    ties = count - above_all
    begin, equals = 0, 0
    for first in range(0, places, WRITTEN):
        ranked, inside, place = _ranked(scores, places, first, WRITTEN)
        above, equal = inside & (ranked > smallest), inside & (ranked == smallest)
        # One running sum of both: of those above in the lower half, of equals in the upper.
        seen = tl.cumsum(above.to(tl.int32) + (equal.to(tl.int32) << 16), 0)
        tied = equals + (seen >> 16)
        kept = above | (equal & (tied <= ties))
        slot = begin + (seen & 0xFFFF) + tl.minimum(tied, ties) - 1
        tl.store(out + slot, start + place.to(tl.int64), mask=kept)
        begin += tl.sum(above.to(tl.int32), 0)
        equals += tl.sum(equal.to(tl.int32), 0)
