"""Kernels that begin while the one before them ends (CUDA's programmatic dependent launch).

A kernel launched with :func:`overlapped` may start before the one launched before it is done, and must call
:func:`wait` before it reads what that one writes, or writes what that one reads: every program of it that
does anything, so that whoever waits for this kernel has waited for those before it, too. What no kernel
writes, as weights, may be read sooner. :func:`release` lets the next kernel start; without it that one starts
when this one is done. It comes after :func:`wait`, so that whatever starts then finds the work of all kernels
before this one done.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

FIRST_CAPABILITY = 9
"""Of a GPU that knows it: Hopper's."""


@lru_cache(maxsize=8)
def _knows(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= FIRST_CAPABILITY


def overlapped(device: torch.device) -> dict[str, Any]:
    """Arguments of a launch, among them the constant ``OVERLAP`` for :func:`wait` and :func:`release`."""
    return {"OVERLAP": True, "launch_pdl": True} if _knows(device) else {"OVERLAP": False}


@triton.jit
def wait(OVERLAP: tl.constexpr):
    """Go on when the kernels before this one are done, and what they wrote is seen."""
    if OVERLAP:
        gdc_wait()


@triton.jit
def wait_within(OVERLAP: tl.constexpr):
    """As :func:`wait`, inside a loop whose loads run ahead, those of before this included.

    Triton 3.9 knows what the instruction does, and lets no load of such a loop run ahead of it.
    """
    if OVERLAP:
        tl.inline_asm_elementwise(
            "griddepcontrol.wait; mov.b32 $0, 0;",
            "=r,~{memory}",
            [],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )


@triton.jit
def soon(pointers, OVERLAP: tl.constexpr):
    """Have these lines of memory, which no kernel under way writes, on their way to the cache."""
    if OVERLAP:
        tl.inline_asm_elementwise(
            "prefetch.global.L2 [$1]; mov.b32 $0, 0;",
            "=r,l",
            [pointers],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )


@triton.jit
def release(OVERLAP: tl.constexpr):
    """Let the next kernel start once every program of this one is here."""
    if OVERLAP:
        gdc_launch_dependents()
