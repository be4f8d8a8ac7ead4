"""Attention mass of several queries over a stretch of keys in pages, all layers in two launches."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from sfi_agent.contracts import LayerSpec
from sfi_kernels.paging import PAGE
from sfi_kernels.splits import multiprocessors, tile_for

PROGRAMS = 16
"""For each multiprocessor, in all: those that end early take more."""


def mass(
    queries: Tensor,
    keys: Tensor,
    layers: Sequence[int],
    table: Tensor,
    start: int,
    stop: int,
    spec: LayerSpec,
    power: float,
) -> tuple[Tensor, Tensor]:
    """The power mean, over a group's heads and the queries, of each position's probability.

    Args:
        queries: ``[N, n, H, D]`` of N layers, all of positions from ``stop`` on.
        keys: ``[layers, pages, H_kv, PAGE, D]``.
        layers: N of them.
        table: ``[pages]`` int32, the row's pages.
        start, stop: the stretch; it is not empty.
        spec: of all these layers; ``scaling`` and ``softcap`` are applied.
        power: exponent; 1 is the plain mean.

    Returns:
        masses and norms of the keys, ``[N, H_kv, stop - start]`` float32.
    """
    count, n, heads, dim = queries.shape
    kv_heads = keys.shape[2]
    group, span = heads // kv_heads, stop - start
    tile = tile_for(n * group, dim, queries.element_size())
    tiles = triton.cdiv(n * group, tile)
    parts = _parts(span, count * kv_heads * tiles, keys.device)
    which = _which(tuple(layers), keys.device)
    partial = queries.new_empty(count * kv_heads, tiles * tile, parts, dtype=torch.float32)
    norms, found = (queries.new_empty(count, kv_heads, span, dtype=torch.float32) for _ in range(2))
    shape = {
        "N": n, "HEADS": heads, "KV_HEADS": kv_heads, "D": dim, "PAGE": PAGE, "TILE": tile, "TILES": tiles,
        "WIDE": triton.next_power_of_2(dim), "CAPPED": spec.softcap is not None,
    }  # fmt: skip
    common = queries.contiguous(), keys, which, table
    numbers = start, stop, spec.scaling, spec.softcap or 0.0, *keys.stride()[:4]
    _totals[count * kv_heads, tiles, parts](*common, partial, norms, *numbers, **shape, num_warps=4)
    totals = partial.logsumexp(-1)
    parts = _parts(span, count * kv_heads, keys.device)
    _masses[count * kv_heads, parts](*common, totals, found, power, *numbers, **shape, num_warps=4)
    return found, norms


def _parts(span: int, programs: int, device: torch.device) -> int:
    """Parts of a stretch of ``span`` positions, so that ``programs`` times as many keep the device busy."""
    return max(1, min(triton.cdiv(PROGRAMS * multiprocessors(device), programs), triton.cdiv(span, PAGE)))


@lru_cache(maxsize=32)
def _which(layers: tuple[int, ...], device: torch.device) -> Tensor:
    """The layers, on the device: sending them would wait for what that is doing."""
    return torch.tensor(layers, dtype=torch.int32, device=device)


@triton.jit
def _asked(queries, layer, head, tile, N: tl.constexpr, HEADS: tl.constexpr, KV_HEADS: tl.constexpr,
           D: tl.constexpr, TILE: tl.constexpr, WIDE: tl.constexpr):  # fmt: skip
    """A tile of one layer's and KV head's queries ``[TILE, WIDE]``, and which of it are there."""
    GROUP: tl.constexpr = HEADS // KV_HEADS
    lane, dims = tile * TILE + tl.arange(0, TILE), tl.arange(0, WIDE)
    token = lane // GROUP
    live = token < N
    at = ((layer * N + token) * HEADS + head * GROUP + lane % GROUP).to(tl.int64) * D
    return tl.load(queries + at[:, None] + dims[None], mask=live[:, None] & (dims[None] < D), other=0.0), live


@triton.jit
def _page(keys, which, table, layer, head, index, start, stop, k_layer, k_page, k_head, k_slot,
          D: tl.constexpr, PAGE: tl.constexpr, WIDE: tl.constexpr):  # fmt: skip
    """The keys ``[PAGE, WIDE]`` of one page, their positions, and which are in the stretch."""
    dims, slots = tl.arange(0, WIDE), tl.arange(0, PAGE)
    position = index * PAGE + slots
    inside = (position >= start) & (position < stop)
    page = tl.load(table + index).to(tl.int64)
    at = tl.load(which + layer).to(tl.int64) * k_layer + page * k_page + head * k_head + slots * k_slot
    k = tl.load(keys + at[:, None] + dims[None], mask=inside[:, None] & (dims[None] < D), other=0.0)
    return k, position, inside


@triton.jit
def _logits(q, k, scaling, softcap, CAPPED: tl.constexpr):
    logits = tl.dot(q, tl.trans(k), input_precision="ieee") * scaling
    if CAPPED:  # softcap * tanh(logits / softcap)
        logits = softcap * (2 * tl.sigmoid(2 * logits / softcap) - 1)
    return logits


@triton.jit
def _stretch(start, stop, part, parts, PAGE: tl.constexpr):
    """The pages of one part of the stretch."""
    first, last = start // PAGE, tl.cdiv(stop, PAGE)
    each = tl.cdiv(last - first, parts)
    begin = first + part * each
    return begin, tl.minimum(begin + each, last)


@triton.jit
def _totals(
    queries, keys, which, table, partial, norms, start, stop, scaling, softcap,
    k_layer, k_page, k_head, k_slot,
    N: tl.constexpr, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr,
    TILE: tl.constexpr, TILES: tl.constexpr, WIDE: tl.constexpr, CAPPED: tl.constexpr,
):  # fmt: skip
    """One layer and KV head, one tile of queries, one part: the logarithm of the sum of ``exp(logit)``."""
    layer, head = tl.program_id(0) // KV_HEADS, tl.program_id(0) % KV_HEADS
    tile, part, parts = tl.program_id(1), tl.program_id(2), tl.num_programs(2)
    q, _ = _asked(queries, layer, head, tile, N, HEADS, KV_HEADS, D, TILE, WIDE)
    begin, end = _stretch(start, stop, part, parts, PAGE)
    to = norms + tl.program_id(0).to(tl.int64) * (stop - start) - start
    top = tl.full([TILE], float("-inf"), tl.float32)
    total = tl.zeros([TILE], tl.float32)
    for index in range(begin, end):
        k, position, inside = _page(keys, which, table, layer, head, index, start, stop,
                                  k_layer, k_page, k_head, k_slot, D, PAGE, WIDE)  # fmt: skip
        if tile == 0:
            exact = k.to(tl.float32)
            tl.store(to + position, tl.sqrt(tl.sum(exact * exact, 1)), mask=inside)
        logits = tl.where(inside[None], _logits(q, k, scaling, softcap, CAPPED), float("-inf"))
        higher = tl.maximum(top, tl.max(logits, 1))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(logits - higher[:, None]), 1)
        top = higher
    lane = tile * TILE + tl.arange(0, TILE)
    at = (tl.program_id(0).to(tl.int64) * (TILES * TILE) + lane) * parts + part
    tl.store(partial + at, tl.where(total > 0, top + tl.log(tl.maximum(total, 1e-30)), float("-inf")))


@triton.jit
def _masses(
    queries, keys, which, table, totals, found, power, start, stop, scaling, softcap,
    k_layer, k_page, k_head, k_slot,
    N: tl.constexpr, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr,
    TILE: tl.constexpr, TILES: tl.constexpr, WIDE: tl.constexpr, CAPPED: tl.constexpr,
):  # fmt: skip
    """One layer and KV head, one part: power means over all of its queries."""
    layer, head = tl.program_id(0) // KV_HEADS, tl.program_id(0) % KV_HEADS
    begin, end = _stretch(start, stop, tl.program_id(1), tl.num_programs(1), PAGE)
    to = found + tl.program_id(0).to(tl.int64) * (stop - start) - start
    sums = totals + tl.program_id(0).to(tl.int64) * (TILES * TILE) + tl.arange(0, TILE)
    q, live = _asked(queries, layer, head, 0, N, HEADS, KV_HEADS, D, TILE, WIDE)
    total = tl.load(sums)
    for index in range(begin, end):
        k, position, inside = _page(keys, which, table, layer, head, index, start, stop,
                                  k_layer, k_page, k_head, k_slot, D, PAGE, WIDE)  # fmt: skip
        powers = tl.zeros([PAGE], tl.float32)
        for tile in range(TILES):
            if TILES > 1:
                q, live = _asked(queries, layer, head, tile, N, HEADS, KV_HEADS, D, TILE, WIDE)
                total = tl.load(sums + tile * TILE)
            # Positions by queries: the sum over queries stays within a warp.
            logits = _logits(k, q, scaling, softcap, CAPPED)
            powers += tl.sum(tl.where(live[None], tl.exp(power * (logits - total[None])), 0.0), 1)
        mean = powers / (N * (HEADS // KV_HEADS))
        mean = tl.where(mean > 0, tl.exp2(tl.log2(tl.maximum(mean, 1e-37)) / power), 0.0)
        tl.store(to + position, mean, mask=inside)
