"""The tokens that follow many others: the most likely, or drawn by noise that is made where it is needed."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sfi_agent.contracts import Drawing
from sfi_agent.contracts.drawing import FIRST, NUMBERS, SECOND, STEP
from sfi_kernels.joining import COUNTERS, is_last, shared_counters
from sfi_kernels.least.triton import least
from sfi_kernels.overlap import overlapped, release, wait
from sfi_kernels.rounding import cdiv, next_power_of_2

BLOCK = 4096
"""Tokens of the vocabulary that a program looks at."""
WARPS = 8
_STEP, _FIRST, _SECOND = (tl.constexpr(each) for each in (STEP, FIRST, SECOND))


def draw(logits: Tensor, drawing: Drawing | None, out: Tensor, *, counters: Tensor | None = None) -> None:
    """Write the tokens that follow: of equals the first.

    Args:
        logits: ``[N, vocabulary]``.
        drawing: how they are drawn; None: they are the most likely.
        out: ``[N]`` int64, contiguous.
        counters: as in :func:`sfi_kernels.linear.triton.linear`.
    """
    count, size = logits.shape
    if count > COUNTERS:
        raise ValueError(f"up to {COUNTERS} tokens are drawn at a time (given {count})")
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    blocks = cdiv(size, BLOCK)
    scores = torch.empty(count, blocks, dtype=torch.float32, device=logits.device)
    tokens = torch.empty(count, blocks, dtype=torch.int32, device=logits.device)
    counters = shared_counters(logits.device) if counters is None else counters
    numbers, positions, lowest = (tokens, tokens, scores)
    if drawing is not None:
        numbers, positions = drawing.numbers.contiguous(), drawing.positions.contiguous()
        lowest = least(logits, drawing, counters) if drawing.likeliest else scores
    _draw[count, blocks](
        logits, numbers, positions, lowest, scores, tokens, out, counters, size, logits.stride(0),
        BLOCK=BLOCK, WIDE=next_power_of_2(blocks), NUMBERS=NUMBERS, DRAWN=drawing is not None,
        CUT=drawing is not None and drawing.likeliest > 0, num_warps=WARPS, **overlapped(logits.device),
    )  # fmt: skip


@triton.jit
def _hashed(states):
    """SplitMix64's finalizer of uint64."""
    states = (states ^ (states >> 30)) * _FIRST
    states = (states ^ (states >> 27)) * _SECOND
    return states ^ (states >> 31)


@triton.jit
def _noise(seed, position, token):
    """Exponentially distributed numbers of the tokens at one position."""
    state = _hashed(_hashed(seed) + position.to(tl.uint64) * _STEP)
    bits = _hashed(state + (token + 1).to(tl.uint64) * _STEP) >> 33
    uniform = tl.minimum((bits.to(tl.float32) + 0.5) * 2.0**-31, 1 - 2.0**-24)
    # -log(1 - uniform): what rounding takes from the difference is made up for (Kahan).
    rest = 1.0 - uniform
    return tl.where(rest == 1, uniform, tl.log(rest) * (uniform / tl.where(rest == 1, -1.0, rest - 1)))


@triton.jit
def _draw(
    logits, numbers, positions, lowest, scores, tokens, out, done, size, stride,
    BLOCK: tl.constexpr, WIDE: tl.constexpr, NUMBERS: tl.constexpr, DRAWN: tl.constexpr, CUT: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    """The highest of a block; of all, by the last program of a row."""
    row, block, blocks = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    token = block * BLOCK + tl.arange(0, BLOCK)
    wait(OVERLAP)
    release(OVERLAP)
    at = logits + row.to(tl.int64) * stride + token
    score = tl.load(at, mask=token < size, other=float("-inf")).to(tl.float32)
    # As torch has it; NaN would lose to tokens that are not there.
    score = tl.where(score != score, float("inf"), score)
    if DRAWN:
        numbers += row * NUMBERS
        temperature = tl.load(numbers).to(tl.float32, bitcast=True)
        if temperature > 0:
            lower, upper = tl.load(numbers + 1).to(tl.uint32, bitcast=True), tl.load(numbers + 2)
            seed = (upper.to(tl.uint32, bitcast=True).to(tl.uint64) << 32) | lower.to(tl.uint64)
            noise = _noise(seed, tl.load(positions + row), token)
            drawn = score / temperature - tl.log(noise)
            if CUT:
                drawn = tl.where(score < tl.load(lowest + row), float("-inf"), drawn)
            score = tl.where(token < size, drawn, float("-inf"))
    best, place = tl.max(score, 0, return_indices=True)
    scores, tokens = scores + row * blocks, tokens + row * blocks
    tl.store(scores + block, best)
    tl.store(tokens + block, block * BLOCK + place)
    if is_last(done + row, blocks):
        tl.store(done + row, 0)
        other = tl.arange(0, WIDE)
        each = tl.load(scores + other, mask=other < blocks, other=float("-inf"), cache_modifier=".cg")
        found = tl.load(tokens + other, mask=other < blocks, other=0, cache_modifier=".cg")
        _, which = tl.max(each, 0, return_indices=True)
        tl.store(out + row, tl.sum(tl.where(other == which, found, 0), 0).to(tl.int64))
