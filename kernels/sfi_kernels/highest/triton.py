"""The highest scores of each row, exactly: a radix select by one program a row.

What a selector chooses at a slow step. Four passes count the digits of those scores that may be the smallest
one kept, highest digit first; a fifth writes the places above it, and of its equals the first ones.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK, WARPS = 2048, 8
"""Scores at a time, and warps of a program."""


def highest(scores: Tensor, count: int) -> Tensor:
    """Places of the ``count`` highest of each row, ascending, the earlier of equals.

    Args:
        scores: ``[..., P]`` float32, no NaN.
        count: ``0 < count <= P``.

    Returns:
        ``[..., count]`` int64.
    """
    *lead, places = scores.shape
    scores = scores.contiguous()
    out = torch.empty(*lead, count, dtype=torch.int64, device=scores.device)
    block = min(BLOCK, max(256, triton.next_power_of_2(places)))
    _highest[scores.numel() // places,](scores, out, places, count, BLOCK=block, num_warps=WARPS)
    return out


@triton.jit
def _ranked(scores, places, first, BLOCK: tl.constexpr):
    """Whole numbers of 32 bits that rank as the scores do, and which are there."""
    place = first + tl.arange(0, BLOCK)
    inside = place < places
    bits = tl.load(scores + place, mask=inside, other=0.0).to(tl.int32, bitcast=True)
    bits = tl.where(bits == -2147483648, 0, bits)  # -0 equals 0
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.uint32, bitcast=True) ^ 0x80000000, inside, place


@triton.jit
def _highest(scores, out, places, count, BLOCK: tl.constexpr):
    scores += tl.program_id(0).to(tl.int64) * places
    out += tl.program_id(0).to(tl.int64) * count
    digits = tl.arange(0, 256)
    smallest = tl.full([], 0, tl.uint32)
    wanted = count
    for turn in tl.static_range(4):
        shift = 24 - 8 * turn
        occurs = tl.zeros([256], tl.int32)
        for first in range(0, places, BLOCK):
            ranked, inside, _ = _ranked(scores, places, first, BLOCK)
            if turn > 0:
                inside &= (ranked >> (shift + 8)) == (smallest >> (shift + 8))
            occurs += tl.histogram(((ranked >> shift) & 0xFF).to(tl.int32), 256, mask=inside)
        from_here = tl.sum(occurs, 0) - tl.cumsum(occurs, 0) + occurs
        digit = tl.max(tl.where(from_here >= wanted, digits, 0), 0)
        wanted -= tl.sum(tl.where(digits > digit, occurs, 0), 0)
        smallest |= digit.to(tl.uint32) << shift
    begin, equals = 0, 0
    for first in range(0, places, BLOCK):
        ranked, inside, place = _ranked(scores, places, first, BLOCK)
        above, equal = inside & (ranked > smallest), inside & (ranked == smallest)
        # One running sum of both: of those above in the lower half, of equals in the upper.
        seen = tl.cumsum(above.to(tl.int32) + (equal.to(tl.int32) << 16), 0)
        tied = equals + (seen >> 16)
        kept = above | (equal & (tied <= wanted))
        slot = begin + (seen & 0xFFFF) + tl.minimum(tied, wanted) - 1
        tl.store(out + slot, place.to(tl.int64), mask=kept)
        begin += tl.sum(above.to(tl.int32), 0)
        equals += tl.sum(equal.to(tl.int32), 0)
