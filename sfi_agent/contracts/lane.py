"""Rows of a step as a kernel finds them: where their pages are, and what each of them attends to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from sfi_agent.contracts.coding import Coding

PAGE = 64
"""Positions in a page."""


class LayerPages(NamedTuple):
    """One layer's part of a pool.

    Attributes:
        keys: ``[pages, H_kv, PAGE, D]``.
        values: ``[pages, H_kv, PAGE, D_v]``.
        codes: ``[pages, H_kv, PAGE, D * bits / 8]`` uint8 of the keys, the lowest bits first, or None.
        scales: ``[pages, H_kv, PAGE, 1]`` float16, one factor a key; finite where nothing was coded, too.
    """

    keys: Tensor
    values: Tensor
    codes: Tensor | None = None
    scales: Tensor | None = None


class Lists(NamedTuple):
    """Remembered places of one layer.

    Attributes:
        places: ``[R, H_kv, S]`` int32, ``PAGE * page + slot``; -1 is passed over.
        counts: ``[R, H_kv]`` int32, how many of them each head remembers.
    """

    places: Tensor
    counts: Tensor


class Ranked(NamedTuple):
    """What each row chooses anew from the codes.

    Attributes:
        coding: of the codes.
        starts, stops: ``[R]`` int32: the stretch to choose from. What precedes it, the sink, is always
            attended to; both are 0 in a dense row.
        wanted: ``[R]`` int32: positions to choose for all KV heads together.
        most: at least what one head may be given, sink and all.
        longest: at least the largest stop.
    """

    coding: Coding
    starts: Tensor
    stops: Tensor
    wanted: Tensor
    most: int
    longest: int


class Rings(NamedTuple):
    """Where rows keep the queries of their latest tokens: position p's in slot ``p % size``, in each layer.

    Attributes:
        stores: R of ``[layers, size, H, D]`` in the queries' dtype; None: the row keeps none.
        facts: ``[4, R]`` int32 on the device, of the same, for launches that are captured before the stores
            are known: the lower and the upper half of a store's address (0: there is none), its size, and
            how many of the row's new tokens are kept. Those behind them only fill the launch.
    """

    stores: Sequence[Tensor | None]
    facts: Tensor


@dataclass(frozen=True)
class Lane:
    """Rows of a step, their new tokens behind one another.

    A row attends to what is listed or chosen for it in the layer and to everything from its tail on; a
    dense row has nothing listed and a tail of 0.

    Attributes:
        tokens: new tokens of each row; with ``firsts``, at most.
        tables: ``[R, pages]`` int32: the page that holds positions ``PAGE * i ...`` of each row.
        lengths: ``[R]`` int32, contexts with the new tokens.
        tails: ``[R]`` int32, first recent positions.
        longest: at least what any row attends to: how far a launch is laid out.
        lists: by layer; None: nothing is listed.
        ranked: None: nothing is chosen. Lists and this exclude each other.
        shares: ``[R]`` int32, what :meth:`RowsKernel.share` gave, or 0 in a row that only fills the launch;
            None: no row is dense among others that are not.
        rings: None: no row keeps queries.
        firsts: ``[R + 1]`` int32, each row's first token, and the number of all rows' tokens, behind which
            may be some that only fill the launch. Rows without tokens, which do so too, are the last ones.
            None: rows have as many each. With it nothing is listed or chosen for rows of several tokens.
    """

    tokens: int
    tables: Tensor
    lengths: Tensor
    tails: Tensor
    longest: int
    lists: Mapping[int, Lists] | None = None
    ranked: Ranked | None = None
    shares: Tensor | None = None
    rings: Rings | None = None
    firsts: Tensor | None = None
