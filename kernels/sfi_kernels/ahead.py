"""Asking for weights before they are read: the memory has nothing else to do between two large kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

MOST_BYTES = 32 * 2**20
"""Asked for at a time: more would push out of a 50 MB cache what was asked for first."""
CHUNK = tl.constexpr(2048)
"""Bytes that one thread asks for at a time; a last part of a weight is left out."""


@dataclass(frozen=True)
class Ahead:
    """Up to two weights.

    Attributes:
        weights: contiguous, on a CUDA device; where there are fewer, any.
        chunks: of each, to ask for.
    """

    weights: tuple[Tensor, Tensor]
    chunks: tuple[int, int]

    @classmethod
    def of(cls, weights: Sequence[Tensor], like: Tensor) -> Ahead:
        """As much of these as the cache holds, the first one first; none where the device has no such call."""
        room, found = MOST_BYTES if _asks(like.device) else 0, []
        for weight in weights[:2]:
            taken = min(weight.nbytes, room) if weight.is_contiguous() else 0
            found.append((weight, taken // CHUNK.value))
            room -= taken
        (first, many), (second, more) = (*found, (like, 0), (like, 0))[:2]
        return cls((first, second), (many, more))


@lru_cache(maxsize=8)
def _asks(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


@triton.jit
def ask(weight, chunks, program, programs, THREADS: tl.constexpr):
    """Have this program's share of a weight's chunks on its way into the second-level cache (sm_90)."""
    for first in range(program * THREADS, chunks, programs * THREADS):
        chunk = first + tl.arange(0, THREADS)
        at = weight.to(tl.int64) + chunk.to(tl.int64) * CHUNK
        tl.inline_asm_elementwise(
            "{ .reg .pred p; setp.ne.s32 p, $2, 0; @p cp.async.bulk.prefetch.L2.global [$1], 2048;"
            " mov.u32 $0, 0; }",
            "=r,l,r",
            [at, (chunk < chunks).to(tl.int32)],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )
