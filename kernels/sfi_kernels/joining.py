"""How what several programs found is joined: by the last of them to be done, or by a launch of its own."""

from __future__ import annotations

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from sfi_kernels.overlap import overlapped, release, wait
from sfi_kernels.rounding import next_power_of_2

COUNTERS = 2**16
"""Results that programs share, of one launch."""


def counters_for(device: torch.device) -> Tensor:
    """Int32 zeros, one for each result that several programs share: every launch leaves them so."""
    return torch.zeros(COUNTERS, dtype=torch.int32, device=device)


def shared_counters(device: torch.device) -> Tensor:
    """Those of the stream in use: launches of one follow one another."""
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    return _of_stream(device, stream)


@lru_cache(maxsize=64)
def _of_stream(device: torch.device, _: int) -> Tensor:
    return counters_for(device)


@triton.jit
def is_last(done, parts):
    """Whether the other parts of a result are done: the last one sees their work, and sets ``done`` to 0."""
    tl.debug_barrier()
    return tl.atomic_add(done, 1, sem="acq_rel") == parts - 1


@triton.jit
def joined(
    partial, stats, first, splits, live, dims, PARTS: tl.constexpr, DV: tl.constexpr, SMALL: tl.constexpr,
    MANY: tl.constexpr,
):  # fmt: skip
    """What parts of some lanes left, as one, by the last program of them to be done.

    Args:
        partial, stats: as for :func:`combine`.
        first: ``[TILE]`` int64, each lane's first part.
        splits: parts of a lane, up to ``PARTS``, of small tiles that are not ``MANY`` or of larger ones.
        live: ``[TILE]``, lanes that there are.
        dims: of a value, ``DV`` of them.
        SMALL: whether a part's sums are few, so that ``PARTS`` are asked for one behind the other. Of others
            the weights are found first, so that none waits for the one before.

    Returns:
        ``[TILE]`` highest logit, ``[TILE]`` sum of weights, and ``[TILE, ...]`` weighted sum of values.
    """
    top = tl.full(first.shape, float("-inf"), tl.float32)
    total = tl.zeros(first.shape, tl.float32)
    out = tl.zeros([first.shape[0], dims.shape[0]], tl.float32)
    if MANY:
        for begin in range(0, splits, PARTS):
            for part in tl.static_range(PARTS):
                at = first + begin + part
                there = live & (at < first + splits)
                top, total, out = _added(partial, stats, at, there, dims, top, total, out, DV)
    elif SMALL:
        for part in tl.static_range(PARTS):
            there = live & (first + part < first + splits)  # in lanes: an interpreter's numbers are no masks
            top, total, out = _added(partial, stats, first + part, there, dims, top, total, out, DV)
    else:
        parts = tl.arange(0, PARTS)
        at, there = first[:, None] + parts[None], live[:, None] & (parts[None] < splits)
        tops = tl.load(stats + at * 2, mask=there, other=float("-inf"), cache_modifier=".cg")
        totals = tl.load(stats + at * 2 + 1, mask=there, other=0.0, cache_modifier=".cg")
        top = tl.max(tops, 1)
        weights = tl.exp(tops - tl.where(top == float("-inf"), 0.0, top)[:, None])
        total = tl.sum(totals * weights, 1)
        for part in range(splits):
            own = tl.sum(tl.where(parts[None] == part, weights, 0.0), 1)
            sums = tl.load(  # of a part that saw nothing there are none
                partial + (first + part)[:, None] * DV + dims[None],
                mask=(own > 0)[:, None] & (dims[None] < DV), other=0.0, cache_modifier=".cg",
            )  # fmt: skip
            out += sums * own[:, None]
    return top, total, out


@triton.jit
def _added(partial, stats, at, there, dims, top, total, out, DV: tl.constexpr):
    """One more part, read past what this multiprocessor has cached."""
    own = tl.load(stats + at * 2, mask=there, other=float("-inf"), cache_modifier=".cg")
    own_total = tl.load(stats + at * 2 + 1, mask=there, other=0.0, cache_modifier=".cg")
    saw = there & (own > float("-inf"))  # a part that saw nothing left no sums
    sums = tl.load(
        partial + at[:, None] * DV + dims[None], mask=saw[:, None] & (dims[None] < DV), other=0.0,
        cache_modifier=".cg",
    )  # fmt: skip
    higher = tl.maximum(top, own)
    base = tl.where(higher == float("-inf"), 0.0, higher)
    kept, weight = tl.exp(top - base), tl.exp(own - base)
    return higher, total * kept + own_total * weight, out * kept[:, None] + sums * weight[:, None]


def combine(partial: Tensor, stats: Tensor, used: Tensor | None, sinks: Tensor | None, out: Tensor) -> None:
    """One result of several parts, of more than a program joins.

    Args:
        partial: ``[..., H, parts, D_v]`` float32, sums of values weighted by ``exp(logit - top)``.
        stats: ``[..., H, parts, 2]`` float32: ``top``, and the sum of the weights.
        used: of :func:`counters_for`, how many parts there are of each result; zeros are left. None: all.
        sinks: ``[H]`` float32 logits that join the softmax without a value, or None.
        out: ``[..., H, D_v]``, to be written; zeros where nothing was seen.
    """
    *_, heads, parts, dim = partial.shape
    _combine[out.numel() // dim,](
        partial, stats, stats if used is None else used, stats if sinks is None else sinks, out,
        HEADS=heads, PARTS=parts, DV=dim, WIDE=next_power_of_2(dim),
        WIDE_PARTS=next_power_of_2(parts), SOME=used is not None, SINKS=sinks is not None, num_warps=4,
        **overlapped(partial.device),
    )  # fmt: skip


@triton.jit
def _combine(
    partial, stats, used, sinks, out,
    HEADS: tl.constexpr, PARTS: tl.constexpr, DV: tl.constexpr, WIDE: tl.constexpr,
    WIDE_PARTS: tl.constexpr, SOME: tl.constexpr, SINKS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    wait(OVERLAP)
    release(OVERLAP)
    lane = tl.program_id(0).to(tl.int64)
    part, dims = tl.arange(0, WIDE_PARTS), tl.arange(0, WIDE)
    here, there = lane * PARTS + part, part < PARTS
    if SOME:
        there &= part < tl.load(used + lane)
        tl.debug_barrier()  # every warp has read it before one writes
        tl.store(used + lane, 0)
    tops = tl.load(stats + here * 2, mask=there, other=float("-inf"))
    totals = tl.load(stats + here * 2 + 1, mask=there, other=0.0)
    top = tl.max(tops, 0)
    if SINKS:
        sink = tl.load(sinks + lane % HEADS)
        top = tl.maximum(top, sink)
    base = tl.where(top == float("-inf"), 0.0, top)
    weights = tl.exp(tops - base)
    total = tl.sum(totals * weights, 0)
    if SINKS:
        total += tl.exp(sink - base)
    at = here[:, None] * DV + dims[None]
    # Parts that saw nothing left no sums.
    sums = tl.load(partial + at, mask=(tops[:, None] > float("-inf")) & (dims[None] < DV), other=0.0)
    result = tl.sum(sums * weights[:, None], 0) / tl.where(total > 0, total, 1.0)
    tl.store(out + lane * DV + dims, result.to(out.dtype.element_ty), mask=dims < DV)
