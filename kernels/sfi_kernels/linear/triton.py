"""A linear layer whose weights are read once, by programs that are under way before the inputs are there."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from sfi_kernels.overlap import overlapped, release, soon, wait
from sfi_kernels.splits import multiprocessors, shared_counters

MOST_TOKENS = 64
"""More of them are bound by arithmetic, for which other kernels are better."""

RESIDENT = 2
"""Programs that a multiprocessor runs at a time: by the shared memory of their blocks."""


EARLY = 2**40


class Layout(NamedTuple):
    """How a product is divided.

    Attributes:
        rows: of weights, of a program.
        depth: columns of them at a time.
        parts: of the columns, each a program's.
        stages: blocks on their way at a time.
        warps: of a program.
        ahead: blocks asked for before the inputs are there.
    """

    rows: int = 64
    depth: int = 128
    parts: int = 1
    stages: int = 3
    warps: int = 4
    ahead: int = 1

    @classmethod
    def of(cls, rows: int, columns: int, device: torch.device) -> Layout:
        """For weights ``[rows, columns]``: so many parts that as many programs begin as run at a time."""
        tiles = triton.cdiv(rows, cls._field_defaults["rows"])
        at_a_time = RESIDENT * multiprocessors(device)
        return cls(parts=max(1, min(at_a_time // tiles, columns // 512)))


def linear(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    layout: Layout | None = None,
    *,
    counters: Tensor | None = None,
) -> Tensor:
    """A linear layer of few tokens; sums are in float32 and in one order, whatever runs beside it.

    Args:
        inputs: ``[T, K]``, T up to 64.
        weight: ``[N, K]``.
        bias: ``[N]`` or None.
        layout: how it is divided; None: as suits the device.
        counters: of :func:`sfi_kernels.splits.counters_for`, used by no launch at the same time; None: the
            device's own.

    Returns:
        ``[T, N]`` of the inputs' dtype.
    """
    tokens, depth = inputs.shape
    rows = weight.shape[0]
    inputs = inputs if inputs.stride(1) == 1 else inputs.contiguous()
    layout = layout or Layout.of(rows, depth, inputs.device)
    tiles = triton.cdiv(rows, layout.rows)
    out = inputs.new_empty(tokens, rows)
    several = layout.parts > 1
    partial = inputs.new_empty(layout.parts, tokens, rows, dtype=torch.float32) if several else out
    counters = shared_counters(inputs.device) if counters is None else counters
    _linear[tiles, layout.parts](
        inputs, weight, weight if bias is None else bias, out, partial, counters,
        tokens, rows, depth, inputs.stride(0), weight.stride(0),
        TOKENS=max(16, triton.next_power_of_2(tokens)), ROWS=layout.rows, DEPTH=layout.depth,
        PARTS=layout.parts, AHEAD=layout.ahead, BIASED=bias is not None,
        EVEN=depth % layout.depth == 0 and rows % layout.rows == 0,
        num_warps=layout.warps, num_stages=layout.stages, **_early(weight),
    )  # fmt: skip
    return out


def _early(weight: Tensor) -> dict[str, Any]:
    return overlapped(weight.device) if weight.nbytes < EARLY else {"OVERLAP": False}


@triton.jit
def _linear(
    inputs, weight, bias, out, partial, done, tokens, rows, depth, i_token, w_row,
    TOKENS: tl.constexpr, ROWS: tl.constexpr, DEPTH: tl.constexpr, PARTS: tl.constexpr, AHEAD: tl.constexpr,
    BIASED: tl.constexpr, EVEN: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """One tile of rows, one part of the columns; the last part to be done adds them all."""
    LINE: tl.constexpr = 64  # elements, of 128 bytes where they have 16 bits
    tile, part = tl.program_id(0), tl.program_id(1)
    row, token, column = tile * ROWS + tl.arange(0, ROWS), tl.arange(0, TOKENS), tl.arange(0, DEPTH)
    blocks = tl.cdiv(depth, DEPTH)
    begin, end = part * blocks // PARTS, (part + 1) * blocks // PARTS
    w_at = tl.minimum(row, rows - 1).to(tl.int64)[:, None] * w_row
    for block in tl.static_range(AHEAD):
        line = (begin + block) * DEPTH + tl.arange(0, DEPTH // LINE) * LINE
        soon(weight + w_at + tl.minimum(line, depth - 1)[None], OVERLAP)
    wait(OVERLAP)
    release(OVERLAP)
    sums = tl.zeros([ROWS, TOKENS], tl.float32)
    for block in range(begin, end):
        at = block * DEPTH + column
        if EVEN:
            w = tl.load(weight + w_at + at[None])
            x = tl.load(inputs + token[:, None] * i_token + at[None], mask=token[:, None] < tokens, other=0.0)
        else:
            w = tl.load(weight + w_at + at[None], mask=(row[:, None] < rows) & (at[None] < depth), other=0.0)
            there = (token[:, None] < tokens) & (at[None] < depth)
            x = tl.load(inputs + token[:, None] * i_token + at[None], mask=there, other=0.0)
        sums = tl.dot(w, tl.trans(x), sums, input_precision="ieee")
    to = token[None] * rows + row[:, None]
    there = (token[None] < tokens) & (row[:, None] < rows)
    last = True
    if PARTS > 1:
        tl.store(partial + part * tokens * rows + to, sums, mask=there)
        tl.debug_barrier()
        last = tl.atomic_add(done + tile, 1, sem="acq_rel") == PARTS - 1
    if last:
        if PARTS > 1:
            tl.store(done + tile, 0)
            sums = tl.zeros([ROWS, TOKENS], tl.float32)
            for other in tl.static_range(PARTS):  # all on their way at once
                sums += tl.load(
                    partial + other * tokens * rows + to, mask=there, other=0.0, cache_modifier=".cg"
                )
        if BIASED:
            sums += tl.load(bias + row, mask=row < rows, other=0.0).to(tl.float32)[:, None]
        tl.store(out + to, sums.to(out.dtype.element_ty), mask=there)
