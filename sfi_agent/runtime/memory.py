"""Refreshing the sparse memory: evidence from captured queries, a selector's choice, kernel plans."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sfi_agent.contracts import AttentionKernel, Coding, Ranking, RowsKernel, Selection, Selector, View
from sfi_agent.errors import PluginError
from sfi_agent.policy import Policy
from sfi_agent.runtime.evidence import shown
from sfi_agent.runtime.kv import LayerStore
from sfi_agent.runtime.pages import PagedCache
from sfi_agent.runtime.queries import at
from sfi_agent.runtime.remembered import Chosen, Fetched, Listed
from sfi_agent.runtime.row import Row
from sfi_agent.runtime.sparse import LayerMemory, Planned, Reranked, SparseMemory

EVIDENCE_BYTES = {"cpu": 32 * 2**20, "cuda": 640 * 2**20}
"""Logits of the layers that are selected for together stay below this; where a kernel sums them instead,
RANKING numbers for each candidate. On a GPU it serves 36 layers of 8 KV heads at once up to 36,000 tokens."""
RANKING = 16
"""Masses, and what a selector needs to rank them."""


@dataclass(frozen=True)
class Layout:
    """How a budget divides at one context length.

    Attributes:
        sink: first positions kept.
        tail: where recent begins.
        count: positions to select between the two.
    """

    sink: int
    tail: int
    count: int

    @classmethod
    def of(cls, policy: Policy, length: int) -> Layout | None:
        """The layout at ``length`` tokens, or None when they are too few or the budget covers them."""
        budget = policy.positions(length)
        if length < policy.dense_below or budget >= length:
            return None
        recent = max(1, min(policy.recent, budget // 2))
        sink = min(policy.sink, budget - recent)
        return cls(sink, length - recent, budget - recent - sink)

    def positions(self, length: int) -> int:
        """That a KV head remembers of ``length`` tokens."""
        return length - self.tail + self.sink + self.count


Stores = Mapping[int, LayerStore]
"""Keys and values of a row's layers."""
Saw = Callable[[tuple[int, ...], Layout, Tensor], None]
"""Called with N layers, and the positions ``[N, H_kv, S]`` that they will remember."""


def refresh(
    row: Row, policy: Policy, selector: Selector, kernel: AttentionKernel, saw: Saw | None = None
) -> float:
    """Choose the row's sparse memory anew, or code what a re-ranking selector will choose from.

    The memory stays None, so that the next step is dense, when the context is short, the budget
    covers it, or no query was captured yet. ``saw`` is told what was chosen.

    Returns:
        KV bytes read: keys for evidence and index, and what was gathered.
    """
    length, row.memory = row.kv.length, None
    layout = Layout.of(policy, length)
    if layout is None:
        return 0
    rows = kernel.rows() if isinstance(row.kv, PagedCache) else None
    paged = row.kv if isinstance(row.kv, PagedCache) and rows else None
    if paged and rows and (coding := selector.coding()) and paged.pool.code_with(coding):
        row.memory, coded = _coded(paged, layout, coding, rows)
        return coded
    wanted = min(selector.rows_wanted(), length - layout.tail)
    captured = row.queries.latest(length, wanted)
    if wanted and not captured:
        return 0
    stores: Stores = row.kv.layers
    layers: dict[int, LayerMemory] = {}
    listed: dict[tuple[int, ...], Tensor] = {}
    read = 0.0
    for batch in _batches(row, layout, len(captured), summed=rows is not None):
        chosen = _choose(row, stores, layout, batch, selector, captured, rows)
        if saw and chosen is not None and not selector.reranks:
            saw(batch, layout, chosen)
        if captured:
            read += (layout.tail - layout.sink) * len(batch) * stores[batch[0]].key_bytes
        if paged and chosen is not None and not selector.reranks:
            listed[batch] = chosen
            continue
        for place, layer in enumerate(batch):
            positions = None if chosen is None else chosen[place]
            store = stores[layer]
            if selector.reranks:
                layers[layer], cost = _rerankable(row, layer, store, layout, positions, selector, kernel)
            else:
                room = policy.max_interval + policy.max_draft
                layers[layer], cost = _planned(store, length, layout, positions, room, kernel)
            read += cost
    pages = _listed(paged, layout, listed, rows) if paged and rows and listed else None
    row.memory = SparseMemory(length, layout.positions(length), layers, length, pages)
    return read


def _choose(
    row: Row,
    stores: Stores,
    layout: Layout,
    layers: tuple[int, ...],
    selector: Selector,
    captured: list[int],
    rows: RowsKernel | None,
) -> Tensor | None:
    """``[layers, H_kv, S]``; None where a re-ranking selector wants no evidence."""
    if selector.reranks and not captured:
        return None
    evidence, view = shown(
        row,
        stores,
        layers,
        captured,
        start=layout.sink,
        stop=layout.tail,
        count=layout.count,
        kernel=rows,
        norms=selector.reads_norms,
    )
    selection = selector.refresh(evidence, view)
    _check(selection, view, stores[layers[0]].kv_heads, selector)
    return selection.positions


def _planned(
    store: LayerStore,
    length: int,
    layout: Layout,
    positions: Tensor | None,
    room: int,
    kernel: AttentionKernel,
) -> tuple[Planned, float]:
    """The layer's memory of these positions, and the bytes gathered for it."""
    assert positions is not None
    kept = torch.cat([_sink(layout, positions.shape[0], positions.device), positions], dim=1)
    plan = kernel.plan(*store.span(0, length), kept, layout.tail, room)
    used = float((kept >= 0).sum()) / kept.shape[0]
    return Planned(kernel, plan, layout.tail, used), (length - layout.tail + used) * store.position_bytes


def _listed(
    kv: PagedCache, layout: Layout, chosen: dict[tuple[int, ...], Tensor], kernel: RowsKernel
) -> Listed:
    """The memory of these positions, to be read where they lie: nothing is gathered, nothing read back."""
    windows, table = kv.windows, kv.table()
    most = layout.sink + max(positions.shape[2] for positions in chosen.values())
    heads = next(iter(chosen.values())).shape[1]
    shape, every = (len(windows), heads, most), tuple(range(len(windows)))
    lists = table.new_empty(shape) if every in chosen else table.new_full(shape, -1)
    kept = table.new_zeros((), dtype=torch.int64)
    for layers, positions in chosen.items():
        index, count = at(layers), layout.sink + positions.shape[2]
        own = lists[index, :, :count]
        kernel.place(positions.to(table.device), table, own, kept)
        if isinstance(index, list):  # layers that do not follow each other are a copy
            lists[index, :, :count] = own
    return Listed(layout.tail, windows, kv.pool.position_bytes, lists, Fetched(kept))


def _coded(kv: PagedCache, layout: Layout, coding: Coding, kernel: RowsKernel) -> tuple[SparseMemory, float]:
    """The memory of a kernel that chooses by its codes, and the bytes of the keys coded for it."""
    coded = kv.code(coding, layout.tail, kernel)
    pages = Chosen(
        layout.tail,
        kv.windows,
        kv.pool.position_bytes,
        coding=coding,
        sink=layout.sink,
        count=layout.count,
        code_bytes=kv.code_bytes(layout.tail - layout.sink),
    )
    read = coded * kv.windows.count(None) * kv.pool.key_bytes
    return SparseMemory(kv.length, layout.positions(kv.length), {}, kv.length, pages), read


def _rerankable(
    row: Row,
    layer: int,
    store: LayerStore,
    layout: Layout,
    candidates: Tensor | None,
    selector: Selector,
    kernel: AttentionKernel,
) -> tuple[Reranked, float]:
    """The layer's memory for a selector that re-ranks, and the bytes of the keys coded for it."""
    coded = 0
    if layer not in row.indexes and (new := selector.index(layer)):
        row.indexes[layer] = new
    if (index := row.indexes.get(layer)) and index.length < layout.tail:
        coded = layout.tail - index.length
        index.append(store.span(index.length, layout.tail)[0])
    heads = store.kv_heads
    ranking = Ranking(layer, layout.sink, layout.tail, layout.count, heads, store.spec, candidates)
    sink = _sink(layout, heads, store.device)
    return Reranked(kernel, selector, index, ranking, sink), coded * store.key_bytes


def _sink(layout: Layout, heads: int, device: torch.device) -> Tensor:
    return torch.arange(layout.sink, device=device).expand(heads, -1)


def _batches(row: Row, layout: Layout, captured: int, *, summed: bool) -> Iterator[tuple[int, ...]]:
    """Full-attention layers that are alike, as many at once as the evidence may take."""
    logits = row.queries.heads * captured if captured else 0
    for layers in row.kv.alike:
        some = row.kv.layers[layers[0]]
        size = max(1, RANKING * some.kv_heads if summed else logits) * (layout.tail - layout.sink) * 4
        step = max(1, EVIDENCE_BYTES.get(some.device.type, 0) // max(1, size))
        for first in range(0, len(layers), step):
            yield layers[first : first + step]


def _check(selection: Selection, view: View, heads: int, selector: Selector) -> None:
    name, lead = type(selector).__name__, (len(view.layers), heads)
    if not isinstance(selection, Selection) or not isinstance(selection.positions, Tensor):
        raise PluginError(
            f"selector {name} returned a {type(selection).__name__}; expected a Selection of a tensor"
        )
    positions = selection.positions
    if positions.dtype != torch.int64:
        raise PluginError(f"selector {name} returned positions of {positions.dtype}; expected torch.int64")
    if positions.dim() != 3 or tuple(positions.shape[:2]) != lead:
        raise PluginError(
            f"selector {name} returned positions of shape {tuple(positions.shape)}; "
            f"expected ({lead[0]}, {heads}, S): layers, KV heads, positions"
        )
    if positions.device.type == "cpu":  # a GPU would have to be waited for
        _check_places(positions, view, name)
    if selector.reranks or positions.shape[2] <= view.count:
        return
    allowed, used = lead[0] * heads * view.count, int((positions >= 0).sum())
    if used > allowed:
        raise PluginError(
            f"selector {name} chose {used} positions where the budget allows {allowed} "
            f"({view.count} for each of {heads} KV heads in {lead[0]} layers)"
        )


def _check_places(positions: Tensor, view: View, name: str) -> None:
    outside = positions[(positions >= 0) & ((positions < view.start) | (positions >= view.stop))]
    if outside.numel():
        raise PluginError(
            f"selector {name} chose position {int(outside[0])}; expected {view.start} ... {view.stop - 1}, "
            "or -1 in a place that is not used"
        )
    descending = (positions[..., 1:] <= positions[..., :-1]) & (positions[..., 1:] >= 0)
    if descending.any():
        place = tuple(descending.nonzero()[0].tolist())
        pair = positions[(*place[:2], slice(place[2], place[2] + 2))].tolist()
        raise PluginError(
            f"selector {name} chose position {pair[1]} behind {pair[0]}; expected them ascending, each once"
        )
