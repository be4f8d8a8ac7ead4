"""A linear layer whose weights are read once, by programs that are under way before the inputs are there."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from sfi_agent.contracts import Rotary
from sfi_kernels.joining import is_last, shared_counters
from sfi_kernels.overlap import overlapped, release, soon, wait
from sfi_kernels.rounding import cdiv, next_power_of_2
from sfi_kernels.splits import multiprocessors

MOST_TOKENS = 64
"""More of them are bound by arithmetic, for which other kernels are better."""

RESIDENT, MOST_RESIDENT = 2, 3
"""Programs of a product that a multiprocessor is given, and that it has room for: by the shared memory of
their blocks. Those that compute a norm wait longer for each block, and are as many as there is room for."""


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
    def of(
        cls,
        rows: int,
        columns: int,
        tokens: int,
        device: torch.device,
        *,
        normed: bool = False,
        high: int | None = None,
    ) -> Layout:
        """For weights ``[rows, columns]``: as many programs as run at a time.

        So many parts; or, of few tokens, tiles twice as high where there are a few too many, so that none of
        them begins when most are done. Tiles that are to be ``high`` stay so.
        """
        usual = cls() if high is None else cls(rows=high)
        tiles, each = cdiv(rows, usual.rows), multiprocessors(device)
        if tokens <= 16 and high is None and MOST_RESIDENT * each < tiles <= 2 * RESIDENT * each:
            return usual._replace(rows=2 * usual.rows)
        at_a_time = (MOST_RESIDENT if normed else RESIDENT) * each
        return usual._replace(parts=max(1, min(at_a_time // tiles, columns // 512)))


def linear(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    layout: Layout | None = None,
    *,
    norm: Tensor | None = None,
    eps: float = 0.0,
    residual: Tensor | None = None,
    gated: bool = False,
    rotary: Rotary | None = None,
    counters: Tensor | None = None,
) -> Tensor:
    """A linear layer of few tokens; sums are in float32 and in one order, whatever runs beside it.

    Args:
        inputs: ``[T, K]``, T up to 64.
        weight: ``[N, K]``.
        bias: ``[N]`` or None.
        layout: how it is divided; None: as suits the device.
        norm: ``[K]``, the weight of the inputs' RMS norm, which is multiplied instead of them; or None. What
            is rounded to their dtype are inputs times this, not scaled yet, and float16 must hold them.
        eps: of the norm.
        residual: ``[T, N]`` of the inputs' dtype, added to the product once that is rounded to it.
        gated: whether the result is ``silu(first) * second`` of the product's halves, ``[T, N / 2]``, each
            rounded to the dtype first.
        rotary: of the product's heads, once that is rounded to the dtype, or None. A tile is half a head
            then, D is a power of two that divides N, and nothing else follows the product.
        counters: of :func:`sfi_kernels.joining.counters_for`, used by no launch at the same time; None: the
            device's own.

    Returns:
        ``[T, N]`` of the inputs' dtype; gated, ``[T, N / 2]``.
    """
    tokens, depth = inputs.shape
    rows, width = weight.shape[0], weight.shape[0] // (2 if gated else 1)
    inputs = inputs if inputs.stride(1) == 1 else inputs.contiguous()
    half = None if rotary is None else rotary.cos.shape[1] // 2
    layout = layout or Layout.of(rows, depth, tokens, inputs.device, normed=norm is not None, high=half)
    high = layout.rows // (2 if gated else 1)
    tiles = cdiv(width, high)
    out = inputs.new_empty(tokens, width)
    several = layout.parts > 1 or rotary is not None
    # Beside the sums of all rows each tile leaves those of the squares; many are read at a time still.
    kept = rows if norm is None else cdiv(rows + tiles, 16) * 16
    partial = inputs.new_empty(layout.parts, tokens, kept, dtype=torch.float32) if several else out
    counters = shared_counters(inputs.device) if counters is None else counters
    turn = rotary or Rotary(weight, weight, 0, 0)
    beside = bias, norm, residual, turn.cos, turn.sin, turn.query_norm, turn.key_norm
    _linear[tiles, layout.parts](
        inputs, weight, *(weight if each is None else each.contiguous() for each in beside), out, partial,
        counters, tokens, rows, depth, kept, eps, turn.eps, inputs.stride(0), weight.stride(0),
        TOKENS=max(16, next_power_of_2(tokens)), ROWS=layout.rows, DEPTH=layout.depth,
        PARTS=layout.parts, AHEAD=layout.ahead, BIASED=bias is not None, NORMED=norm is not None,
        ADDED=residual is not None, GATED=gated, ROTARY=rotary is not None, QUERIES=turn.queries,
        KEYS=turn.keys, HEADS_NORMED=turn.query_norm is not None,
        EVEN=depth % layout.depth == 0 and width % high == 0,
        num_warps=layout.warps, num_stages=layout.stages, **overlapped(inputs.device),
    )  # fmt: skip
    return out


@triton.jit
def _linear(
    inputs, weight, bias, norm, residual, cos, sin, query_norm, key_norm, out, partial, done,
    tokens, rows, depth, kept, eps, head_eps, i_token, w_row,
    TOKENS: tl.constexpr, ROWS: tl.constexpr, DEPTH: tl.constexpr, PARTS: tl.constexpr, AHEAD: tl.constexpr,
    BIASED: tl.constexpr, NORMED: tl.constexpr, ADDED: tl.constexpr, GATED: tl.constexpr,
    ROTARY: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, HEADS_NORMED: tl.constexpr,
    EVEN: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """One tile of rows, one part of the columns; the last part to be done adds them all."""
    TILES: tl.constexpr = 2 if ROTARY else 1  # the halves of a head are joined together
    SHARED: tl.constexpr = PARTS * TILES  # programs that leave parts of one result
    LINE: tl.constexpr = 64  # elements, of 128 bytes where they have 16 bits
    SOONER: tl.constexpr = max(1, 128 // ROWS)  # blocks, about what a launch takes
    HALVES: tl.constexpr = 2 if GATED else 1  # a tile has as many rows of each
    HIGH: tl.constexpr = ROWS // HALVES
    tile, part = tl.program_id(0), tl.program_id(1)
    nth, token, column = tl.arange(0, ROWS), tl.arange(0, TOKENS), tl.arange(0, DEPTH)
    width = rows // HALVES
    within, half = tile * HIGH + nth % HIGH, nth // HIGH * width
    blocks = tl.cdiv(depth, DEPTH)
    begin, end = part * blocks // PARTS, (part + 1) * blocks // PARTS
    w_at = (tl.minimum(within, width - 1) + half).to(tl.int64)[:, None] * w_row
    for block in tl.static_range(AHEAD):
        line = (begin + block) * DEPTH + tl.arange(0, DEPTH // LINE) * LINE
        soon(weight + w_at + tl.minimum(line, depth - 1)[None], OVERLAP)
    wait(OVERLAP)
    if ROTARY:  # what follows has other things to read than this
        release(OVERLAP)
    if NORMED:
        later = tl.load(norm + tl.minimum(begin * DEPTH + column, depth - 1))
    sums, squares = tl.zeros([ROWS, TOKENS], tl.float32), tl.zeros([TOKENS], tl.float32)
    for block in range(begin, end):
        at = block * DEPTH + column
        if EVEN:
            w = tl.load(weight + w_at + at[None])
            x = tl.load(inputs + token[:, None] * i_token + at[None], mask=token[:, None] < tokens, other=0.0)
        else:
            w = tl.load(
                weight + w_at + at[None], mask=(within[:, None] < width) & (at[None] < depth), other=0.0
            )
            there = (token[:, None] < tokens) & (at[None] < depth)
            x = tl.load(inputs + token[:, None] * i_token + at[None], mask=there, other=0.0)
        if NORMED:
            scale, later = later, tl.load(norm + tl.minimum(at + DEPTH, depth - 1))
            squares += tl.sum(x.to(tl.float32) * x.to(tl.float32), 1)
            x *= scale[None]
        if SHARED == 1:  # else parts are joined while the next launch begins
            if block == end - SOONER:
                release(OVERLAP)
        sums = tl.dot(w, tl.trans(x), sums, input_precision="ieee")
    # Not sooner: programs of the next product would crowd where there is room now, and share it to the end.
    if not ROTARY:
        release(OVERLAP)
    to = token[None] * kept + (within + half)[:, None]
    there = (token[None] < tokens) & (within[:, None] < width)
    to_square, counted = token * kept + rows + tile, token < tokens
    done += tile // TILES
    last = True
    if SHARED > 1:
        tl.store(partial + part * tokens * kept + to, sums, mask=there)
        if NORMED:
            tl.store(partial + part * tokens * kept + to_square, squares, mask=counted)
        last = is_last(done, SHARED)
    if ROTARY:
        if last:
            tl.store(done, 0)
            _write_head(
                partial, cos, sin, query_norm, key_norm, out, tile // 2, tokens, rows, depth, kept, eps,
                head_eps, ROWS, TOKENS, PARTS, NORMED, QUERIES, KEYS, HEADS_NORMED,
            )  # fmt: skip
    elif last:
        row = tile * HIGH + tl.arange(0, HIGH)
        to_out = token[None] * width + row[:, None]
        asked = (token[None] < tokens) & (row[:, None] < width)
        if ADDED:
            added = tl.load(residual + to_out, mask=asked, other=0.0, cache_modifier=".cg")
        if PARTS > 1:
            tl.store(done, 0)
            sums = _joined(partial + to, there, tokens * kept, PARTS)
            if NORMED:
                squares = _joined(partial + to_square, counted, tokens * kept, PARTS)
        if NORMED:
            sums *= tl.rsqrt(squares / depth + eps)[None]
        if BIASED:
            sums += tl.load(bias + within + half, mask=within < width, other=0.0).to(tl.float32)[:, None]
        found = sums.to(out.dtype.element_ty)
        if GATED:
            gate, up = tl.split(tl.permute(tl.reshape(found, [2, HIGH, TOKENS]), [1, 2, 0]))
            gate = gate.to(tl.float32)
            found = (gate / (1 + tl.exp(-gate))).to(up.dtype) * up
        if ADDED:
            found += added
        tl.store(out + to_out, found, mask=asked)


@triton.jit
def _joined(parts, there, stride, PARTS: tl.constexpr):
    """The sum of what the parts left, in their order; all of it is on its way at once."""
    total = tl.load(parts, mask=there, other=0.0, cache_modifier=".cg")
    for part in tl.static_range(1, PARTS):
        total += tl.load(parts + part * stride, mask=there, other=0.0, cache_modifier=".cg")
    return total


@triton.jit
def _angles(cos, sin, at, there, HALF: tl.constexpr):
    """Cosines and sines of both halves of a head."""
    first_cos, second_cos = tl.load(cos + at, mask=there), tl.load(cos + at + HALF, mask=there)
    first_sin, second_sin = tl.load(sin + at, mask=there), tl.load(sin + at + HALF, mask=there)
    return first_cos, second_cos, first_sin, second_sin


@triton.jit
def _write_head(
    partial, cos, sin, query_norm, key_norm, out, head, tokens, rows, depth, kept, eps, head_eps,
    HALF: tl.constexpr, TOKENS: tl.constexpr, PARTS: tl.constexpr, NORMED: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, HEADS_NORMED: tl.constexpr,
):  # fmt: skip
    """Both halves of a head, of all parts; of a query or a key normed and turned."""
    D: tl.constexpr = 2 * HALF
    nth, token = tl.arange(0, HALF), tl.arange(0, TOKENS)
    counted = token < tokens
    there = counted[None] & (nth[:, None] < HALF)
    at = token[None] * D + nth[:, None]
    SOON: tl.constexpr = TOKENS <= 16  # beside what the parts left; more of them have too few registers
    if SOON:
        first_cos, second_cos, first_sin, second_sin = _angles(cos, sin, at, there, HALF)
    left = partial + token[None] * kept + (head * D + nth)[:, None]
    first = _joined(left, there, tokens * kept, PARTS)
    second = _joined(left + HALF, there, tokens * kept, PARTS)
    if not SOON:
        first_cos, second_cos, first_sin, second_sin = _angles(cos, sin, at, there, HALF)
    if NORMED:  # both tiles left the same
        squares = _joined(partial + token * kept + rows + 2 * head, counted, tokens * kept, PARTS)
        scale = tl.rsqrt(squares / depth + eps)[None]
        first, second = first * scale, second * scale
    dtype = out.dtype.element_ty
    first, second = first.to(dtype).to(tl.float32), second.to(dtype).to(tl.float32)
    if head < QUERIES + KEYS:
        if HEADS_NORMED:
            squares = tl.sum(first * first, 0) + tl.sum(second * second, 0)
            scale = tl.rsqrt(squares / D + head_eps)[None]
            own = head < QUERIES
            for_first = tl.where(own, tl.load(query_norm + nth), tl.load(key_norm + nth))
            for_second = tl.where(own, tl.load(query_norm + HALF + nth), tl.load(key_norm + HALF + nth))
            first = (first * scale).to(dtype).to(tl.float32) * for_first.to(tl.float32)[:, None]
            second = (second * scale).to(dtype).to(tl.float32) * for_second.to(tl.float32)[:, None]
        first, second = first * first_cos - second * first_sin, second * second_cos + first * second_sin
    to = out + token[None] * rows + (head * D + nth)[:, None]
    tl.store(to, first.to(dtype), mask=there)
    tl.store(to + HALF, second.to(dtype), mask=there)
