"""Which tokens of a step are whose, where rows have different numbers of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from sfi_kernels.rounding import next_power_of_2

MOST_FRESH, FRESH_BLOCK = 192, 64
"""New tokens of a row that attention may write on the way, and those that it sees at a time."""
THREADS = 128
"""Of a program, at most: a running sum over as many numbers has one for each."""


class Spans(NamedTuple):
    """Which of T tokens are whose: rows' tokens lie behind one another, and some may belong to none.

    Attributes:
        firsts: ``[R + 1]`` int32, each row's first token, and the number of all rows' tokens. Rows without
            any are the last. None: they have one each.
        most, least: tokens of a row. Those that have more or fewer are left to another launch.
    """

    firsts: Tensor | None
    most: int
    least: int = 1

    @property
    def some(self) -> bool:
        """Whether rows may be left to another launch."""
        return self.firsts is not None and (self.least > 1 or self.most == 1)

    @classmethod
    def even(cls, queries: Tensor, rows: int) -> Spans:
        """Of queries ``[T, ...]``, as many a row."""
        n = len(queries) // rows
        if n == 1:
            return cls(None, 1)
        firsts = torch.arange(0, len(queries) + 1, n, dtype=torch.int32, device=queries.device)
        most = next_power_of_2(n)  # each is a kernel of its own
        return cls(firsts, min(most, MOST_FRESH) if n <= MOST_FRESH else most)


@triton.jit
def item(
    firsts, rows, slots, most, LEAST: tl.constexpr, MOST: tl.constexpr, GROUP: tl.constexpr,
    KV_HEADS: tl.constexpr, TILE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """What a program does where rows differ in tokens: all tiles that there are have as many parts.

    So none is there for tiles that there are not, which would take the places of others.

    Returns:
        its row, KV head, tile and part, and the number of parts; 0 if there is nothing to do.
    """
    index = tl.arange(0, ROWS)
    n = tl.load(firsts + index + 1, mask=index < rows, other=0)
    n -= tl.load(firsts + index, mask=index < rows, other=0)
    tiles = tl.where((n >= LEAST) & (n <= MOST), tl.cdiv(n * GROUP, TILE), 0)
    upto, every = tl.cumsum(tiles, 0), tl.sum(tiles)
    results = tl.maximum(every, 1) * KV_HEADS
    parts = tl.where(every > 0, tl.minimum(tl.maximum(slots // results, 1), most), 0)
    one = tl.program_id(0) % results
    place = one // KV_HEADS
    row = tl.sum((upto <= place).to(tl.int32))
    tile = place - tl.sum(tl.where(upto <= place, tiles, 0))
    return row, one % KV_HEADS, tile, tl.program_id(0) // results, parts


@triton.jit
def leave(
    result, first, tokens, head, HEADS: tl.constexpr, GROUP: tl.constexpr, DV: tl.constexpr,
    TILE: tl.constexpr, WIDE_V: tl.constexpr,
):  # fmt: skip
    """Zeros from token ``first`` on, which are no row's."""
    lane, vdims = tl.arange(0, TILE), tl.arange(0, WIDE_V)
    for begin in range(first * GROUP, tokens * GROUP, TILE):
        token = (begin + lane) // GROUP
        at, there = token * HEADS + head * GROUP + (begin + lane) % GROUP, token < tokens
        to = result + at[:, None] * DV + vdims[None]
        nothing = tl.zeros([TILE, WIDE_V], result.dtype.element_ty)
        tl.store(to, nothing, mask=there[:, None] & (vdims[None] < DV))
