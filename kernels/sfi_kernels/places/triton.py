"""Places of chosen positions, of all layers in one launch."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from sfi_kernels.paging import PAGE
from sfi_kernels.rounding import cdiv

BLOCK = 1024
"""Positions of a program."""


def place(positions: Tensor, table: Tensor, out: Tensor, kept: Tensor) -> None:
    """Write where the sink and the positions that a selector chose lie.

    Args:
        positions: ``[N, H_kv, S]`` whole numbers; -1 in unused places, as any other that is in no page.
        table: ``[pages]`` int32, the row's pages.
        out: ``[N, H_kv, sink + S]`` int32, a head's side by side: ``PAGE * page + slot`` of the first
            ``sink`` positions, then of ``positions``, -1 for -1.
        kept: ``[]`` int64, to which the number of places other than -1 is added.
    """
    layers, heads, each = positions.shape
    positions, most = positions.contiguous(), out.shape[2]
    _place[layers * heads, cdiv(most, BLOCK)](
        positions, table, out, kept, len(table), heads, each, most, *out.stride()[:2], PAGE=PAGE, BLOCK=BLOCK
    )


@triton.jit(do_not_specialize=["pages", "each", "most", "o_layer", "o_head"])
def _place(
    positions, table, out, kept, pages, heads, each, most, o_layer, o_head,
    PAGE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    sink = most - each
    own = positions + tl.program_id(0).to(tl.int64) * each + at - sink
    position = tl.load(own, mask=(at >= sink) & (at < most), other=0)
    position = tl.where(at < sink, at, position)
    there = (at < most) & (position >= 0) & (position < pages * PAGE)
    page = tl.load(table + position // PAGE, mask=there, other=0)
    found = tl.where(there, page * PAGE + position % PAGE, -1).to(tl.int32)
    to = out + (tl.program_id(0) // heads).to(tl.int64) * o_layer + tl.program_id(0) % heads * o_head + at
    tl.store(to, found, mask=at < most)
    tl.atomic_add(kept, tl.sum(there.to(tl.int64), 0), sem="relaxed")
