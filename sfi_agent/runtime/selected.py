"""What a selector chooses at a slow step, in layers that are alike at once; checked."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sfi_agent.contracts import RowsKernel, Selection, Selector, View
from sfi_agent.errors import PluginError
from sfi_agent.runtime.evidence import shown
from sfi_agent.runtime.layout import Layout
from sfi_agent.runtime.row import Row

EVIDENCE_BYTES = {"cpu": 32 * 2**20, "cuda": 640 * 2**20}
"""Logits of the layers that are selected for together stay below this; where a kernel sums them instead,
RANKING numbers for each candidate. On a GPU it serves 36 layers of 8 KV heads at once up to 36,000 tokens."""
RANKING = 16
"""Masses, and what a selector needs to rank them."""


def selected(
    row: Row, layout: Layout, selector: Selector, captured: list[int], kernel: RowsKernel | None
) -> Iterator[tuple[tuple[int, ...], Tensor | None]]:
    """Ask ``selector`` about every full-attention layer.

    Args:
        row: holds queries and keys.
        layout: of its context.
        selector: asked for positions between sink and recent ones.
        captured: positions of the queries that are evidence, one after another.
        kernel: sums mass over the row's pages; None: it has none.

    Yields:
        layers that were shown together, and the positions ``[layers, H_kv, S]`` chosen for them: None
        where a re-ranking selector wants no evidence.

    Raises:
        PluginError: the selector broke its contract; says how.
    """
    stores = row.kv.layers
    for layers in _batches(row, layout, len(captured), summed=kernel is not None):
        if selector.reranks and not captured:
            yield layers, None
            continue
        evidence, view = shown(
            row,
            stores,
            layers,
            captured,
            start=layout.sink,
            stop=layout.tail,
            count=layout.count,
            kernel=kernel,
            norms=selector.reads_norms,
        )
        selection = selector.refresh(evidence, view)
        _check(selection, view, stores[layers[0]].kv_heads, selector)
        yield layers, selection.positions


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
