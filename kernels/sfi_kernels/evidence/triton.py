"""Attention mass of several queries over a stretch of keys in pages, all layers in two launches."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from sfi_agent.contracts import LayerSpec
from sfi_kernels.index_scores.reference import LOG2_E
from sfi_kernels.joining import is_last, shared_counters
from sfi_kernels.paging import PAGE
from sfi_kernels.rounding import cdiv, next_power_of_2
from sfi_kernels.splits import multiprocessors, stages_for, tile_for

PROGRAMS = 16
"""For each multiprocessor, in all: those that end early take more."""
MOST_PARTS = 64
"""Of a stretch where the first pass sums it: the last program of them reads what all found."""
TALL = 64
"""Queries of a tile that Hopper's products take as their first matrix. Where there are fewer, and the keys'
norms are asked for, keys are the first: otherwise norms would take as long as all else."""
LENGTHS = "start", "stop", "parts", "asked"
"""Differ from row to row: a kernel of its own for those that 16 divides would be compiled while rows wait."""


def mass(
    queries: Tensor,
    keys: Tensor,
    layers: Sequence[int],
    table: Tensor,
    start: int,
    stop: int,
    spec: LayerSpec,
    power: float,
    *,
    norms: bool,
) -> tuple[Tensor, Tensor | None]:
    """The power mean, over a group's heads and the queries, of each position's probability.

    Args:
        queries: ``[N, n, H, D]`` of N layers, all of positions from ``stop`` on.
        keys: ``[layers, pages, H_kv, PAGE, D]``.
        layers: N of them.
        table: ``[pages]`` int32, the row's pages.
        start, stop: the stretch; it is not empty.
        spec: of all these layers; ``scaling`` and ``softcap`` are applied.
        power: exponent; 1 is the plain mean.
        norms: whether the keys' norms are asked for, too.

    Returns:
        masses and norms of the keys, ``[N, H_kv, stop - start]`` float32; no norms where not asked for.
    """
    count, n, heads, dim = queries.shape
    kv_heads = keys.shape[2]
    group, span, device = heads // kv_heads, stop - start, keys.device
    if queries.stride()[1:] != (heads * dim, dim, 1):
        queries = queries.contiguous()
    tile = tile_for(n * group, dim, queries.element_size())
    tiles = cdiv(n * group, tile)
    parts = min(_parts(span, count * kv_heads * tiles, device), MOST_PARTS)
    partial = queries.new_empty(count * kv_heads, tiles, parts + 1, tile, dtype=torch.float32)
    found = queries.new_empty(count, kv_heads, span, dtype=torch.float32)
    lengths = torch.empty_like(found) if norms else None
    # In powers of two; a cap is of logits as they are.
    factor = spec.scaling * (1.0 if spec.softcap else LOG2_E)
    common = queries, keys, _which(tuple(layers), device), table
    numbers = start, stop, n, factor, spec.softcap or 0.0, queries.stride(0)
    shape = {
        "HEADS": heads, "KV_HEADS": kv_heads, "D": dim, "PAGE": PAGE, "TILE": tile, "TILES": tiles,
        "WIDE": next_power_of_2(dim), "CAPPED": spec.softcap is not None, "LOG2_E": LOG2_E,
        "K_LAYER": keys.stride(0), "K_PAGE": keys.stride(1), "K_HEAD": keys.stride(2),
        "K_SLOT": keys.stride(3), "num_warps": 4,
        "num_stages": stages_for(PAGE * dim * keys.element_size()),
        "enable_fp_fusion": False,  # else a logit is rounded where it is summed, and not where it is compared
    }  # fmt: skip
    _totals[count * kv_heads, tiles, parts](
        *common, partial, found if lengths is None else lengths, shared_counters(device), *numbers, parts,
        WIDE_PARTS=next_power_of_2(parts), NORMS=norms, TURNED=norms and tile < TALL, **shape,
    )  # fmt: skip
    _masses[count * kv_heads, _parts(span, count * kv_heads, device)](
        *common, partial, found, power, 1 / power, *numbers, parts, PLAIN=power == 1, **shape
    )
    return found, lengths


def _parts(span: int, programs: int, device: torch.device) -> int:
    """Parts of a stretch of ``span`` positions, so that ``programs`` times as many keep the device busy."""
    return max(1, min(cdiv(PROGRAMS * multiprocessors(device), programs), cdiv(span, PAGE)))


@lru_cache(maxsize=32)
def _which(layers: tuple[int, ...], device: torch.device) -> Tensor:
    """The layers, on the device: sending them would wait for what that is doing."""
    return torch.tensor(layers, dtype=torch.int32, device=device)


@triton.jit
def _asked(queries, layer, head, tile, asked, q_layer, HEADS: tl.constexpr, KV_HEADS: tl.constexpr,
           D: tl.constexpr, TILE: tl.constexpr, WIDE: tl.constexpr):  # fmt: skip
    """A tile of one layer's and KV head's queries ``[TILE, WIDE]``, and which of it are there."""
    GROUP: tl.constexpr = HEADS // KV_HEADS
    lane, dims = tile * TILE + tl.arange(0, TILE), tl.arange(0, WIDE)
    token = lane // GROUP
    live = token < asked
    at = layer.to(tl.int64) * q_layer + (token * HEADS + head * GROUP + lane % GROUP) * D
    return tl.load(queries + at[:, None] + dims[None], mask=live[:, None] & (dims[None] < D), other=0.0), live


@triton.jit
def _page(keys, table, index, start, stop, K_PAGE: tl.constexpr, K_SLOT: tl.constexpr, D: tl.constexpr,
          PAGE: tl.constexpr, WIDE: tl.constexpr):  # fmt: skip
    """The keys ``[PAGE, WIDE]`` of one page, their positions, and which are in the stretch."""
    dims, slots = tl.arange(0, WIDE), tl.arange(0, PAGE)
    position = index * PAGE + slots
    at = tl.load(table + index).to(tl.int64) * K_PAGE + slots[:, None] * K_SLOT + dims[None]
    k = tl.load(keys + at) if D == WIDE else tl.load(keys + at, mask=dims[None] < D, other=0.0)
    return k, position, (position >= start) & (position < stop)


@triton.jit
def _logits(one, other, factor, softcap, CAPPED: tl.constexpr, LOG2_E: tl.constexpr):
    """Of two tiles, to be taken as powers of two."""
    logits = tl.dot(one, tl.trans(other), input_precision="ieee") * factor
    if CAPPED:  # softcap * tanh(logits / softcap)
        logits = (softcap * LOG2_E) * (2 * tl.sigmoid(2 * logits / softcap) - 1)
    return logits


@triton.jit
def _stretch(start, stop, part, parts, PAGE: tl.constexpr):
    """The pages of one part of the stretch."""
    first, last = start // PAGE, tl.cdiv(stop, PAGE)
    each = tl.cdiv(last - first, parts)
    begin = first + part * each
    return begin, tl.minimum(begin + each, last)


@triton.jit(do_not_specialize=LENGTHS)
def _totals(
    queries, keys, which, table, partial, norms, done, start, stop, asked, factor, softcap, q_layer,
    parts, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr,
    TILE: tl.constexpr, TILES: tl.constexpr, WIDE: tl.constexpr, CAPPED: tl.constexpr, LOG2_E: tl.constexpr,
    K_LAYER: tl.constexpr, K_PAGE: tl.constexpr, K_HEAD: tl.constexpr, K_SLOT: tl.constexpr,
    WIDE_PARTS: tl.constexpr, NORMS: tl.constexpr, TURNED: tl.constexpr,
):  # fmt: skip
    """One layer and KV head, one tile of queries, one part: the logarithm of its sum of ``2 ** logit``.

    The last program of all parts leaves, behind what each left, the logarithm of the whole sum.
    """
    layer, head = tl.program_id(0) // KV_HEADS, tl.program_id(0) % KV_HEADS
    tile, part = tl.program_id(1), tl.program_id(2)
    q, _ = _asked(queries, layer, head, tile, asked, q_layer, HEADS, KV_HEADS, D, TILE, WIDE)
    keys += tl.load(which + layer).to(tl.int64) * K_LAYER + head * K_HEAD
    begin, end = _stretch(start, stop, part, parts, PAGE)
    to = norms + tl.program_id(0).to(tl.int64) * (stop - start) - start
    top = tl.full([TILE], float("-inf"), tl.float32)
    total = tl.zeros([TILE], tl.float32)
    for index in range(begin, end):
        k, position, inside = _page(keys, table, index, start, stop, K_PAGE, K_SLOT, D, PAGE, WIDE)
        if NORMS:
            if tile == 0:
                # In registers: a product here would read the page once its buffer is given to another.
                exact = k.to(tl.float32)
                tl.store(to + position, tl.sqrt(tl.sum(exact * exact, 1)), mask=inside)
        if TURNED:
            logits = tl.trans(_logits(k, q, factor, softcap, CAPPED, LOG2_E))
        else:
            logits = _logits(q, k, factor, softcap, CAPPED, LOG2_E)
        logits = tl.where(inside[None], logits, float("-inf"))
        higher = tl.maximum(top, tl.max(logits, 1))
        total = total * tl.exp2(top - higher) + tl.sum(tl.exp2(logits - higher[:, None]), 1)
        top = higher
    lane, other = tl.arange(0, TILE), tl.arange(0, WIDE_PARTS)
    partial += (tl.program_id(0) * TILES + tile).to(tl.int64) * (parts + 1) * TILE + lane
    own = tl.where(total > 0, top + tl.log2(tl.maximum(total, 1e-30)), float("-inf"))
    tl.store(partial + part * TILE, own)
    done += tl.program_id(0) * TILES + tile
    if is_last(done, parts):
        tl.store(done, 0)
        each = tl.load(
            partial[None] + other[:, None] * TILE, mask=other[:, None] < parts, other=float("-inf"),
            cache_modifier=".cg",
        )  # fmt: skip
        highest = tl.max(each, 0)
        tl.store(partial + parts * TILE, highest + tl.log2(tl.sum(tl.exp2(each - highest[None]), 0)))


@triton.jit(do_not_specialize=LENGTHS)
def _masses(
    queries, keys, which, table, totals, found, power, root, start, stop, asked, factor, softcap, q_layer,
    parts, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr,
    TILE: tl.constexpr, TILES: tl.constexpr, WIDE: tl.constexpr, CAPPED: tl.constexpr, LOG2_E: tl.constexpr,
    K_LAYER: tl.constexpr, K_PAGE: tl.constexpr, K_HEAD: tl.constexpr, K_SLOT: tl.constexpr,
    PLAIN: tl.constexpr,
):  # fmt: skip
    """One layer and KV head, one part: power means over all of its queries."""
    layer, head = tl.program_id(0) // KV_HEADS, tl.program_id(0) % KV_HEADS
    keys += tl.load(which + layer).to(tl.int64) * K_LAYER + head * K_HEAD
    begin, end = _stretch(start, stop, tl.program_id(1), tl.num_programs(1), PAGE)
    to = found + tl.program_id(0).to(tl.int64) * (stop - start) - start
    sums = totals + (tl.program_id(0).to(tl.int64) * TILES * (parts + 1) + parts) * TILE + tl.arange(0, TILE)
    q, live = _asked(queries, layer, head, 0, asked, q_layer, HEADS, KV_HEADS, D, TILE, WIDE)
    total = tl.load(sums)
    for index in range(begin, end):
        k, position, inside = _page(keys, table, index, start, stop, K_PAGE, K_SLOT, D, PAGE, WIDE)
        powers = tl.zeros([PAGE], tl.float32)
        for tile in range(TILES):
            if TILES > 1:
                q, live = _asked(queries, layer, head, tile, asked, q_layer, HEADS, KV_HEADS, D, TILE, WIDE)
                total = tl.load(sums + tile * (parts + 1) * TILE)
            # Positions by queries: the sum over queries stays within a warp.
            logits = _logits(k, q, factor, softcap, CAPPED, LOG2_E) - total[None]
            if not PLAIN:
                logits *= power
            powers += tl.sum(tl.where(live[None], tl.exp2(logits), 0.0), 1)
        mean = powers / (asked * (HEADS // KV_HEADS))
        if not PLAIN:
            mean = tl.where(mean > 0, tl.exp2(tl.log2(tl.maximum(mean, 1e-37)) * root), 0.0)
        tl.store(to + position, mean, mask=inside)
