"""The greatest of the scores around each place, read once for each place of a window, from the cache."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sfi_kernels.rounding import cdiv

BLOCK = 1024
"""Places of a program."""


def sliding_max(scores: Tensor, window: int) -> Tensor:
    """The greatest of ``window // 2`` scores before each place, its own and ``(window - 1) // 2`` behind it.

    Args:
        scores: ``[..., P]`` float32, no NaN.
        window: places, at least 1.

    Returns:
        ``[..., P]`` float32.
    """
    scores = scores.contiguous()
    out, places = torch.empty_like(scores), scores.shape[-1]
    _sliding_max[scores.numel() // places, cdiv(places, BLOCK)](
        scores, out, places, window, BLOCK=BLOCK, num_warps=4
    )
    return out


@triton.jit(do_not_specialize=["places"])
def _sliding_max(scores, out, places, window, BLOCK: tl.constexpr):
    scores += tl.program_id(0).to(tl.int64) * places
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = place < places
    own = tl.load(scores + place, mask=there, other=0.0)
    greatest = greatest_around(own, scores + place, place, there, places, window)
    tl.store(out + tl.program_id(0).to(tl.int64) * places + place, greatest, mask=there)


@triton.jit
def greatest_around(own, pointers, place, there, places, window):
    """The greatest of each of these scores and those around it: pointers to them, places, which are there."""
    for other in range(-(window // 2), (window - 1) // 2 + 1):
        inside = there & (place + other >= 0) & (place + other < places)
        own = tl.maximum(own, tl.load(pointers + other, mask=inside, other=float("-inf")))
    return own
