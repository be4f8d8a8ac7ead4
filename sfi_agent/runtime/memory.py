"""Refreshing the sparse memory: of what a selector chose, what fast steps attend to."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sfi_agent.contracts import AttentionKernel, Coding, Ranking, RowsKernel, Selector
from sfi_agent.policy import Policy
from sfi_agent.runtime.kv import LayerStore
from sfi_agent.runtime.layout import Layout
from sfi_agent.runtime.pages import PagedCache
from sfi_agent.runtime.queries import at
from sfi_agent.runtime.remembered import Chosen, Fetched, Listed
from sfi_agent.runtime.row import Row
from sfi_agent.runtime.selected import selected
from sfi_agent.runtime.sparse import LayerMemory, Planned, Reranked, SparseMemory

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
    paged = row.kv if isinstance(row.kv, PagedCache) else None
    rows = kernel.rows() if paged else None
    if paged and rows and (coding := selector.coding()) and paged.pool.code_with(coding):
        row.memory, coded = _coded(paged, layout, coding, rows)
        return coded
    wanted = min(selector.rows_wanted(), length - layout.tail)
    captured = row.queries.latest(length, wanted)
    if wanted and not captured:
        return 0
    stores, room, read = row.kv.layers, policy.max_interval + policy.max_draft, 0.0
    layers: dict[int, LayerMemory] = {}
    listed: dict[tuple[int, ...], Tensor] = {}
    for batch, chosen in selected(row, layout, selector, captured, rows):
        if captured:
            read += (layout.tail - layout.sink) * len(batch) * stores[batch[0]].key_bytes
        if selector.reranks:
            for place, layer in enumerate(batch):
                candidates = None if chosen is None else chosen[place]
                layers[layer], cost = _rerankable(row, layer, layout, candidates, selector, kernel)
                read += cost
            continue
        assert chosen is not None
        if saw:
            saw(batch, layout, chosen)
        if paged and rows:
            listed[batch] = chosen
            continue
        for layer, positions in zip(batch, chosen, strict=True):
            layers[layer], cost = _planned(stores[layer], length, layout, positions, room, kernel)
            read += cost
    pages = _listed(paged, layout, listed, rows) if paged and rows and listed else None
    row.memory = SparseMemory(length, layout.positions(length), layers, length, pages)
    return read


def _planned(
    store: LayerStore,
    length: int,
    layout: Layout,
    positions: Tensor,
    room: int,
    kernel: AttentionKernel,
) -> tuple[Planned, float]:
    """The layer's memory of these positions, and the bytes gathered for it."""
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
    layout: Layout,
    candidates: Tensor | None,
    selector: Selector,
    kernel: AttentionKernel,
) -> tuple[Reranked, float]:
    """The layer's memory for a selector that re-ranks, and the bytes of the keys coded for it."""
    store, coded = row.kv.layers[layer], 0
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
