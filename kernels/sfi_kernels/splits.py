"""Attention in parts: how a launch is laid out."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sfi_agent.contracts import LayerSpec
from sfi_kernels.joining import COUNTERS
from sfi_kernels.overlap import overlapped
from sfi_kernels.paging import PAGE, Paged
from sfi_kernels.rounding import cdiv, next_power_of_2
from sfi_kernels.spans import FRESH_BLOCK, MOST_FRESH, Spans

MOST_LANES, TILED = 64, 16 * 1024
"""Query rows (tokens times heads of a group) of one program, and their bytes, at most."""
SMALL = 16 * 128
"""Elements of a tile that two warps hold, and those of other parts to be joined with it at the same time."""
MOST_SPLITS, MOST_JOINED, FEWER_JOINED = 128, 16, 8
"""Parts of a context, and of those that their last program joins, where tiles are small and elsewhere: more
are another launch."""
LONG = 32
"""Blocks of a program of one dense row among others, about. A long one has more parts than those, which its
last program joins so many at a time: few programs are slow to read what is left when all others are done."""
AHEAD, STAGED = 2, 72 * 1024
"""Blocks that are on their way to a program at a time, each once its place is loaded, and their bytes at
most. Where the loop is short, as a sparse memory's, one at a time is one trip to memory after another."""
WARPS, RESIDENT = 2, 3
"""Of a program, and programs that a multiprocessor runs at a time: so many in all, and each ends when the
others do."""
LARGE_WARPS, LARGE_RESIDENT = 4, 2
"""The same where a tile is not small. Hopper's own product, of the tallest, takes four warps."""
TALL_LANES, TALL_TILED, TALL_WARPS, TALL_RESIDENT = 128, 32 * 1024, 8, 1
"""The same, and a tile's rows and bytes, of a prompt's many tokens: each key is read for twice as many."""
WIDE, WIDE_ROOM = 256, 128 * 1024
"""Bytes of a head past which such tiles need so much memory, more than consumer GPUs have."""
WHOLE, BUFFERS, TAKEN = 2, 3, 2048
"""Pages that its program reads at a time of what all new tokens see, and how often there is room for them;
bytes of a multiprocessor's memory that are not a program's."""


class Room(NamedTuple):
    """What a program of attention is given, and how many run at a time.

    Attributes:
        tile: query rows, a power of two.
        tiles: of all query rows.
        small: whether a tile is.
        warps: of a program.
        slots: programs.
    """

    tile: int
    tiles: int
    small: bool
    warps: int
    slots: int

    @classmethod
    def of(
        cls, lanes: int, dim: int, value_dim: int, size: int, device: torch.device, *, tall: bool = False
    ) -> Room:
        """For so many query rows, of elements of ``size`` bytes; ``tall`` where most tiles are full."""
        tile = tile_for(lanes, dim, size, tall=tall)
        small = tile * max(dim, value_dim) <= SMALL
        warps, resident = (WARPS, RESIDENT) if small else (LARGE_WARPS, LARGE_RESIDENT)
        if tile > MOST_LANES:
            warps, resident = TALL_WARPS, TALL_RESIDENT
        return cls(tile, cdiv(lanes, tile), small, warps, resident * multiprocessors(device))


@dataclass(frozen=True)
class Launch:
    """What every attention kernel is launched with.

    Attributes:
        grid: rows times KV heads, tiles of a row's queries, parts of a context; where rows may have several
            tokens, as many programs as there is anything to do for.
        tokens: queries, and the new tokens' keys and values; the queries in their place where there are none.
        strides: of the three, elements from token to token.
        parts: of a context, at most.
        slots: programs that run at a time.
        whole: pages read at a time of what all new tokens see; 0: rows have one token each.
        partial, stats: what the parts leave for who joins them; the queries where there is one part.
        constants: of the kernel.
    """

    grid: tuple[int, int, int]
    tokens: tuple[Tensor, ...]
    strides: tuple[int, ...]
    parts: int
    slots: int
    whole: int
    partial: Tensor
    stats: Tensor
    constants: dict[str, Any]

    @classmethod
    def of(
        cls,
        queries: Tensor,
        store: Paged,
        spec: LayerSpec,
        fresh: tuple[Tensor, Tensor] | None,
        span: int,
        rows: int,
        spans: Spans,
        *,
        mixed: bool,
    ) -> Launch:
        """For queries ``[T, H, D]`` that each read up to ``span`` positions.

        Args:
            queries, store, spec, fresh: as for the kernel.
            span: positions.
            rows: R.
            spans: which of the tokens are whose.
            mixed: whether most rows may read far fewer positions, or none: then one row alone is to have
                parts enough for the device.
        """
        (tokens, heads, dim), most = queries.shape, spans.most
        if fresh is not None and most > MOST_FRESH:
            raise ValueError(f"attention writes up to {MOST_FRESH} new tokens of a row (given {most})")
        group = heads // store.kv_heads
        lanes = most * group
        size, device = queries.element_size(), queries.device
        tall = most > MOST_FRESH and (dim * size <= WIDE or shared_memory(device) >= WIDE_ROOM)
        room = Room.of(lanes, dim, store.value_dim, size, device, tall=tall)
        tile, tiles, small = room.tile, room.tiles, room.small
        if most > 1:
            results = store.kv_heads * min(rows * tiles, rows + tokens * group // tile)
            # A step is captured for up to twice the tokens that it has, but for a few prompts' ends: they
            # fill so many tiles.
            sure = (tokens // 2 - (rows if spans.least > 1 else 0)) * group // tile
            splits = splits_for(span, store.kv_heads * max(1, sure), room.slots)
            splits = splits if tokens * heads <= COUNTERS else 1
            joins = splits <= (MOST_JOINED if small else FEWER_JOINED)
            grid = max(results, room.slots), 1, 1
        else:
            splits, joins = _parts_of_one(span, rows, store.kv_heads, room, mixed=mixed)
            grid = rows * store.kv_heads, tiles, splits
        partial = stats = queries
        if splits > 1:
            partial = queries.new_empty(tokens, heads, splits, store.value_dim, dtype=torch.float32)
            stats = queries.new_empty(tokens, heads, splits, 2, dtype=torch.float32)
        block = PAGE * (dim + store.value_dim) * size
        whole = int(most > 1 and not small)
        needed = tile * dim * size + BUFFERS * WHOLE * block
        if tile > MOST_LANES and needed + TAKEN <= shared_memory(device):
            whole = WHOLE
        given = tuple(_side_by_side(part) for part in (queries, *(fresh or (queries, queries))))
        constants = {
            "MOST": most, "HEADS": heads, "KV_HEADS": store.kv_heads, "D": dim, "DV": store.value_dim,
            "PAGE": PAGE, "TILE": tile, "WIDE": next_power_of_2(dim),
            "WIDE_V": next_power_of_2(store.value_dim), "CAPPED": spec.softcap is not None,
            "FRESH": fresh is not None, "NEW": min(FRESH_BLOCK, max(16, next_power_of_2(most))),
            "PARTS": next_power_of_2(min(splits, MOST_JOINED) if small else splits) if joins else 0,
            "SMALL": small,
            "MANY": joins and small and splits > MOST_JOINED,
            "num_warps": room.warps,
            "num_stages": stages_for(block),
            **overlapped(device),
        }  # fmt: skip
        strides = tuple(each.stride(0) for each in given)
        return cls(grid, given, strides, splits, room.slots, whole, partial, stats, constants)


def _parts_of_one(span: int, rows: int, kv_heads: int, room: Room, *, mixed: bool) -> tuple[int, bool]:
    """Of rows of one token each, and whether the last program of a context joins its parts."""
    programs = kv_heads * room.tiles
    splits = splits_for(span, programs if mixed else rows * programs, room.slots)
    joined, counted = MOST_JOINED if room.small else FEWER_JOINED, rows * programs <= COUNTERS
    if mixed:  # few programs of the others have nothing to do, and no launch has to join them
        joined = max(joined, span // PAGE // LONG if room.small else 0)
        splits = min(splits, joined) if counted else 1
    return splits, splits == 1 or (splits <= joined and counted)


def _side_by_side(tokens: Tensor) -> Tensor:
    """``[T, H, D]`` with a token's entries after one another."""
    return tokens if tokens.stride()[1:] == (tokens.shape[2], 1) else tokens.contiguous()


def stages_for(block: int) -> int:
    """Triton's, of a loop that loads places and then blocks of so many bytes: as many on their way as fit."""
    return 1 + 2 * min(AHEAD, STAGED // block)


def tile_for(lanes: int, dim: int, size: int, *, tall: bool = False) -> int:
    """Query rows of a program, a power of two, of ``lanes`` with ``dim`` elements of ``size`` bytes."""
    most, tiled = (TALL_LANES, TALL_TILED) if tall else (MOST_LANES, TILED)
    fitting = tiled // (next_power_of_2(dim) * size)
    return max(16, min(most, fitting, next_power_of_2(lanes)))


def splits_for(span: int, programs: int, slots: int) -> int:
    """Parts of a context of ``span`` positions, so that ``programs`` times as many fill the slots."""
    return max(1, min(slots // max(programs, 1), -(-span // PAGE), MOST_SPLITS))


def share_for(blocks: Sequence[int], programs: int, slots: int) -> int:
    """Blocks of a program at least, so that those of all rows run at a time: a few left over would run alone.

    Where there are too many rows for that, what all programs would have alike.

    Args:
        blocks: that each row reads.
        programs: of a row, side by side.
        slots: programs that run at a time.
    """
    least = max(1, -(-sum(blocks) * programs // slots))
    if programs * len(blocks) > slots:
        return least
    shares = range(least, max(least, *blocks) + 1)
    fits = bisect_left(
        shares, True, key=lambda share: programs * sum(-(-b // share) for b in blocks) <= slots
    )
    return shares[fits]


@lru_cache(maxsize=8)
def multiprocessors(device: torch.device) -> int:
    """On a CPU, where Triton interprets, few: each program costs milliseconds."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


@lru_cache(maxsize=8)
def shared_memory(device: torch.device) -> int:
    """Bytes of a multiprocessor; where Triton interprets there is no end of them."""
    if device.type != "cuda":
        return 2**30
    shared: int = torch.cuda.get_device_properties(device).shared_memory_per_multiprocessor
    return shared
