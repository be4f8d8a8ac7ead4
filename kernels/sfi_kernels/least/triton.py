"""The lowest logit of those that may come, sought four bits at a time.

Blocks of a row's logits add up side by side how many of them, or how much of the probability, reach each of
the numbers that begin as the one sought does and have any next digit; the last of them to be done takes the
highest digit that is reached often enough. First so for ``top_k``, then for the share of what that leaves.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sfi_agent.contracts import Drawing
from sfi_agent.contracts.drawing import NUMBERS
from sfi_kernels.index_scores.reference import LOG2_E
from sfi_kernels.joining import is_last
from sfi_kernels.overlap import overlapped, release, wait
from sfi_kernels.rounding import cdiv, next_power_of_2

BITS = 4
"""Of a digit."""
DIGITS = {torch.bfloat16: 4, torch.float16: 5, torch.float32: 8}
"""Of logits, as float32: enough for all of their bits that may be set."""
PARTS, BLOCK = 64, 256
"""Of a row's logits, each a program's, and how many of them it looks at at a time. They are the same however
many rows there are, and so are the sums."""
STAGES: tl.constexpr = tl.constexpr(4)
"""Of Triton's: blocks that are on their way at a time."""
FOUND = 5
"""Numbers that a row's launches leave for the next."""


def least(logits: Tensor, drawing: Drawing, counters: Tensor) -> Tensor:
    """What :meth:`Drawing.least` finds, or a number below it that no logit reaches.

    Args:
        logits: ``[N, vocabulary]``, side by side in a row.
        drawing: how they are drawn.
        counters: as in :func:`sfi_kernels.linear.triton.linear`.

    Returns:
        ``[N]`` float32.
    """
    count, size = logits.shape
    parts = min(PARTS, cdiv(size, BLOCK))
    sums = torch.empty(count, parts, 1 << BITS, dtype=torch.float32, device=logits.device)
    tops = torch.empty(count, parts, dtype=torch.float32, device=logits.device)
    found = torch.empty(count, FOUND, dtype=torch.float32, device=logits.device)
    lowest = torch.empty(count, dtype=torch.float32, device=logits.device)
    numbers, digits = drawing.numbers.contiguous(), DIGITS[logits.dtype]
    for weighed in (False, True):
        for digit in range(digits):
            _seek[count, parts](
                logits, numbers, tops, sums, found, lowest, counters, size, logits.stride(0),
                32 - (digit + 1) * BITS, WEIGHED=weighed, FIRST=digit == 0, LAST=digit == digits - 1,
                SAME=32 - digits * BITS, BITS=BITS, BLOCK=BLOCK, WIDE=next_power_of_2(parts),
                NUMBERS=NUMBERS, FOUND=FOUND, LOG2_E=LOG2_E,
                num_warps=4, **overlapped(logits.device),
            )  # fmt: skip
    return lowest


@triton.jit(do_not_specialize=["shift"])
def _seek(
    logits, numbers, tops, sums, found, lowest, done, size, stride, shift,
    WEIGHED: tl.constexpr, FIRST: tl.constexpr, LAST: tl.constexpr, SAME: tl.constexpr, BITS: tl.constexpr,
    BLOCK: tl.constexpr, WIDE: tl.constexpr, NUMBERS: tl.constexpr, FOUND: tl.constexpr,
    LOG2_E: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """One more digit of the number sought, and at last the logit that it ranks.

    ``found`` has the number as yet; the one that ``top_k`` leaves, and the share of its equals that is
    within it; how many are above, or the probability that is to be reached; and the highest logit.
    """
    row, part, parts = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    digit = tl.arange(0, 1 << BITS)
    numbers, found, done = numbers + row * NUMBERS, found + row * FOUND, done + row
    tops, sums = tops + row * parts, sums + (row * parts << BITS)
    logits += row.to(tl.int64) * stride
    wait(OVERLAP)
    release(OVERLAP)
    top_k, share = tl.load(numbers + 3), tl.load(numbers + 4).to(tl.float32, bitcast=True)
    sought, cut = tl.full([], 0, tl.uint32), tl.full([], 0, tl.uint32)
    if not FIRST:
        sought = tl.load(found).to(tl.uint32, bitcast=True)
    if WEIGHED:
        cut, within, top = (
            tl.load(found + 1).to(tl.uint32, bitcast=True),
            tl.load(found + 2),
            tl.load(found + 4),
        )
        temperature = tl.load(numbers).to(tl.float32, bitcast=True)
        factor = LOG2_E / tl.where(temperature > 0, temperature, 1.0)
    from_digit = (sought + (digit.to(tl.uint32) << shift))[:, None]
    highest = tl.full([BLOCK], float("-inf"), tl.float32)
    reaching = tl.zeros([1 << BITS, BLOCK], tl.float32)
    each = tl.cdiv(size, parts)
    begin, end = part * each, tl.minimum(part * each + each, size)
    for first in tl.range(begin, end, BLOCK, num_stages=STAGES):
        token = first + tl.arange(0, BLOCK)
        there = token < end
        score = tl.load(logits + token, mask=there, other=float("-inf")).to(tl.float32)
        bits = score.to(tl.int32, bitcast=True)
        bits = tl.where(bits == -2147483648, 0, bits)  # -0 equals 0
        ranked = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.uint32, bitcast=True) ^ 0x80000000
        weight = tl.where(there, 1.0, 0.0)
        if WEIGHED:
            weight *= tl.exp2((score - top) * factor)
            same = ranked >> SAME == cut >> SAME
            weight = tl.where(same, weight * within, tl.where(ranked > cut, weight, 0.0))
        elif FIRST:
            highest = tl.maximum(highest, score)
        reaching += tl.where(ranked[None] >= from_digit, weight[None], 0.0)
    tl.store(sums + (part << BITS) + digit, tl.sum(reaching, 1))
    if FIRST and not WEIGHED:
        tl.store(tops + part, tl.max(highest, 0))
    if is_last(done, parts):
        tl.store(done, 0)
        other = tl.arange(0, WIDE)
        left = tl.load(
            sums + (other << BITS)[:, None] + digit[None], mask=other[:, None] < parts, other=0.0,
            cache_modifier=".cg",
        )  # fmt: skip
        reached = tl.sum(left, 0)
        cuts = (top_k > 0) & (top_k < size)
        if WEIGHED:
            goal = tl.load(found + 3) if not FIRST else share * tl.max(reached, 0)
            if FIRST:
                tl.store(found + 3, goal)
        else:
            goal = tl.where(cuts, top_k, 0).to(tl.float32)
        chosen = tl.where(goal > 0, tl.max(tl.where(reached >= goal, digit, 0), 0), 0)
        if not WEIGHED:
            above = tl.max(tl.where(digit > chosen, reached, 0.0), 0)
            if FIRST:
                each_top = tl.load(
                    tops + other, mask=other < parts, other=float("-inf"), cache_modifier=".cg"
                )
                tl.store(found + 4, tl.max(each_top, 0))
            else:
                above = tl.maximum(above, tl.load(found + 3))
            tl.store(found + 3, above)
        sought |= chosen.to(tl.uint32) << shift
        tl.store(found, sought.to(tl.float32, bitcast=True))
        if LAST:
            if WEIGHED:
                sought = tl.where((share > 0) & (share < 1), sought, cut)
                low = (sought ^ 0x80000000).to(tl.int32, bitcast=True)
                low ^= (low >> 31) & 0x7FFFFFFF
                all_may = (sought == 0) | (share <= 0)
                tl.store(lowest + row, tl.where(all_may, float("-inf"), low.to(tl.float32, bitcast=True)))
            else:
                equals = tl.sum(tl.where(digit == chosen, reached, 0.0), 0) - above
                tl.store(found + 1, sought.to(tl.float32, bitcast=True))
                tl.store(found + 2, tl.where(cuts, (goal - above) / tl.maximum(equals, 1.0), 1.0))
