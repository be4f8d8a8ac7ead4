"""Random rows in pages, with NaN wherever a kernel must not read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from sfi_agent.contracts import PAGE, Coding, Lane, LayerPages, LayerSpec, Lists, Ranked, Rings
from sfi_agent.contracts.drawing import halves
from sfi_agent.testing.exact import exact_dense, exact_sparse

LENGTHS = (197, 129, 51)
LAYER, LAYERS = 1, 2
"""The layer that is attended to, and how many a ring has."""
RINGS = ((7, 3), (0, 0), (31, 9))
"""Sizes of the rows' rings, and of how many new tokens at most the queries are kept."""


class PagedRows:
    """Three rows whose pages lie in any order; what no row holds is NaN.

    Each has as many new tokens, or these numbers of them, behind which two tokens and two rows fill the lane.

    Attributes:
        pages: the layer's part of the pool, without the new tokens' keys and values; page 0 is no row's.
        lengths, tokens: of each row, the filling ones included.
        tables: ``[R, pages]`` int32.
        queries: ``[T, H, D]``.
        keys, values: ``[T, H_kv, D]`` and ``[T, H_kv, D_v]`` of the new tokens, strided views.
        remembered: by row, the positions ``[H_kv, S]`` before its tail that it attends to, -1 in unused
            places, and the tail. A row that is not in it is dense.
    """

    def __init__(
        self,
        device: str,
        dtype: torch.dtype = torch.float32,
        *,
        tokens: int | Sequence[int] = 1,
        lengths: Sequence[int] = LENGTHS,
        heads: int = 6,
        kv_heads: int = 2,
        dim: int = 64,
        value_dim: int | None = None,
    ) -> None:
        self.device, self.kv_heads = device, kv_heads
        self.generator = torch.Generator().manual_seed(0)
        self.filled = not isinstance(tokens, int)
        self.tokens = 3 * [tokens] if isinstance(tokens, int) else [*tokens, 0, 0]
        self.lengths = [*lengths, *(len(self.tokens) - 3) * [0]]
        counts = [-(-length // PAGE) for length in self.lengths]
        order = (torch.randperm(sum(counts) + 1, generator=self.generator) + 1).int()
        tables = torch.zeros(len(counts), max(counts) + 1, dtype=torch.int32)
        for row, own in enumerate(torch.split(order[: sum(counts)], counts)):
            tables[row, : len(own)] = own
        self.tables = tables.to(device)
        pool = torch.full((2, len(order) + 1, kv_heads, PAGE, dim), torch.nan, dtype=dtype)
        for row, (length, new) in enumerate(zip(self.lengths, self.tokens, strict=True)):
            page, slot = at(self.places(row).cpu()[: length - new])
            pool[:, page, :, slot] = self.drawn(len(page), 2, kv_heads, dim).to(dtype)
        stores = pool.to(device)
        self.pages = LayerPages(stores[0], stores[1, ..., :value_dim])
        count = sum(self.tokens) + 2 * self.filled
        self.queries = self.drawn(count, heads, dim).to(device, dtype)
        new_tokens = self.drawn(count, 2 * kv_heads, dim).to(device, dtype)
        self.keys, self.values = new_tokens[:, :kv_heads], new_tokens[:, kv_heads:, :value_dim]
        self.remembered: dict[int, tuple[Tensor, int]] = {}

    def drawn(self, *shape: int) -> Tensor:
        """Normally distributed numbers."""
        return torch.randn(*shape, generator=self.generator)

    def ints(self, values: Sequence[int]) -> Tensor:
        """int32, 0 for each row that fills the lane."""
        filled = [*values, *(len(self.lengths) - len(values)) * [0]]
        return torch.tensor(filled, dtype=torch.int32, device=self.device)

    def places(self, row: int) -> Tensor:
        """``[L]`` int64: where a row's positions lie."""
        slots = torch.arange(PAGE, device=self.tables.device)
        return (self.tables[row, :, None].long() * PAGE + slots).flatten()[: self.lengths[row]]

    def remember(self, row: int, positions: Tensor, tail: int) -> None:
        """Have a row attend to these ``[H_kv, S]`` and from ``tail`` on; all else becomes NaN."""
        self.remembered[row] = positions.to(self.device), tail
        places = self.places(row)[:tail]
        for head, kept in enumerate(positions):
            page, slot = at(places[~torch.isin(torch.arange(tail), kept).to(self.device)])
            self.pages.keys[page, head, slot] = torch.nan
            self.pages.values[page, head, slot] = torch.nan

    def remember_some(self) -> None:
        """Have the first row attend to up to 100 positions a head, some passed over, the second to none."""
        drawn = [torch.randperm(150, generator=self.generator)[:100] for _ in range(self.kv_heads)]
        positions = torch.stack(drawn)
        positions[0, 77:], positions[:, 5], positions[-1, 0] = -1, -1, -1
        self.remember(0, positions, 150)
        self.remember(1, torch.full((self.kv_heads, 100), -1), 100)

    def lists(self) -> Lists:
        """The places of what is remembered; behind a head's count stands what must not be read."""
        width = max(positions.shape[1] for positions, _ in self.remembered.values())
        shape = len(self.lengths), self.kv_heads, width + 1
        listed = torch.full(shape, 10**6, dtype=torch.int32, device=self.device)
        counts = torch.zeros(shape[:2], dtype=torch.int32, device=self.device)
        for row, (positions, _) in self.remembered.items():
            places = torch.where(positions < 0, -1, self.places(row)[positions.clamp_min(0)]).int()
            used = (positions >= 0).long() * torch.arange(1, positions.shape[1] + 1, device=self.device)
            counts[row] = used.amax(-1).int()
            listed[row, :, :-1].copy_(places)
            listed[row].masked_fill_(
                torch.arange(width + 1, device=self.device) >= counts[row, :, None], 10**6
            )
        return Lists(listed, counts)

    def coded(self, coding: Coding, likely: Mapping[int, Tensor]) -> None:
        """Give the layer codes, by which these ``[H_kv, P]`` positions (bool) of rows stand out."""
        shape = self.pages.keys.shape
        aims = self.drawn(shape[1], shape[3])
        group = self.queries.shape[1] // self.kv_heads
        noise = 0.2 * self.drawn(*self.queries.shape)
        self.queries.copy_(aims.repeat_interleave(group, 0) + noise)
        # All point where the queries look, and most are small, so that their scales tell.
        keys = 0.02 * self.drawn(*shape) + 0.15 * aims[:, None]
        for row, own in likely.items():
            for head, mask in enumerate(own):
                page, slot = at(self.places(row).cpu()[: len(mask)][mask])
                keys[page, head, slot] += aims[head] + 0.5 * self.drawn(len(page), shape[3])
        codes, scales = coding.code(keys.to(self.device), torch.zeros(1, device=self.device))
        self.pages = self.pages._replace(codes=codes, scales=scales[..., None].half())

    def rings(self) -> Rings:
        """Of zeros; the second row has none, nor have those that fill the lane."""
        rings = [*RINGS, *(len(self.tokens) - 3) * [(0, 0)]]
        shape = self.queries.shape[1:]
        stores = [
            torch.zeros(LAYERS, size, *shape, dtype=self.queries.dtype, device=self.device) if size else None
            for size, _ in rings
        ]
        low, high = zip(*(halves(0 if ring is None else ring.data_ptr()) for ring in stores), strict=True)
        counts = [min(most, new) for (_, most), new in zip(rings, self.tokens, strict=True)]
        return Rings(
            stores, torch.stack([self.ints(fact) for fact in (low, high, [s for s, _ in rings], counts)])
        )

    def lane(
        self, *, ranked: Ranked | None = None, share: int | None = None, rings: Rings | None = None
    ) -> Lane:
        """These rows: what they remember is listed, unless they choose it."""
        tails = [self.remembered[row][1] if row in self.remembered else 0 for row in range(len(self.lengths))]
        firsts = [*accumulate(self.tokens, initial=0)]
        return Lane(
            max(self.tokens),
            self.tables,
            self.ints(self.lengths),
            self.ints(tails),
            longest=320,
            lists={LAYER: self.lists()} if self.remembered and ranked is None else None,
            ranked=ranked,
            shares=None if share is None else self.ints(3 * [share]),
            rings=rings,
            firsts=torch.tensor(firsts, dtype=torch.int32, device=self.device) if self.filled else None,
        )

    def written(self) -> LayerPages:
        """The pages as they should be afterwards."""
        stores = self.pages.keys.clone(), self.pages.values.clone()
        firsts = [*accumulate(self.tokens, initial=0)]
        for row, new in enumerate(self.tokens):
            page, slot = at(self.places(row)[self.lengths[row] - new :])
            for store, entries in zip(stores, (self.keys, self.values), strict=True):
                store[page, :, slot] = entries[firsts[row] : firsts[row] + new]
        return self.pages._replace(keys=stores[0], values=stores[1])

    def expected(self, spec: LayerSpec) -> Tensor:
        """``[T, H, D_v]`` float64."""
        pages = self.written()
        out = torch.zeros(*self.queries.shape[:2], self.values.shape[2], dtype=torch.float64)
        for row, part in enumerate(torch.split(torch.arange(sum(self.tokens)), self.tokens)):
            if not len(part):
                continue
            page, slot = at(self.places(row))
            keys, values = (store[page, :, slot].transpose(0, 1) for store in (pages.keys, pages.values))
            given = self.queries[part], keys, values, spec
            if row not in self.remembered or spec.window is not None:
                out[part] = exact_dense(*given)
            else:
                out[part] = exact_sparse(*given, *self.remembered[row])
        return out


def at(places: Tensor) -> tuple[Tensor, Tensor]:
    """Their pages and slots."""
    return places // PAGE, places % PAGE
