"""Refreshing the sparse memory: evidence from captured queries, a selector's choice, kernel plans."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sfi_agent.contracts import AttentionKernel, Evidence, Selector, View
from sfi_agent.errors import PluginError
from sfi_agent.policy import Policy
from sfi_agent.runtime.kv import LayerKV
from sfi_agent.runtime.row import Row, SparseMemory

EVIDENCE_BYTES = 32 * 2**20
"""Layers are selected for in batches whose logits stay below this."""


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


def refresh(row: Row, policy: Policy, selector: Selector, kernel: AttentionKernel) -> int:
    """Choose the row's sparse memory anew from its latest queries.

    The memory stays None, so that the next step is dense, when the context is short, the budget
    covers it, or no query was captured yet.

    Returns:
        KV bytes read: the candidates' keys for the evidence, and what was gathered.
    """
    length, row.memory = row.kv.length, None
    layout = Layout.of(policy, length)
    if layout is None:
        return 0
    wanted = min(selector.rows_wanted(), length - layout.tail)
    captured = row.queries.latest(length, wanted)
    if wanted and not captured:
        return 0
    plans, read = {}, 0
    for layers in _batches(row, layout, len(captured)):
        view = _view(row, layout, layers)
        chosen = selector.refresh(_evidence(row, view, captured), view).positions
        _check(chosen, view, selector)
        for layer, positions in zip(layers, chosen, strict=True):
            store = row.kv.layers[layer]
            sink = torch.arange(layout.sink, device=positions.device).expand(positions.shape[0], -1)
            plans[layer] = kernel.plan(
                store.keys[:, :length],
                store.values[:, :length],
                torch.cat([sink, positions], dim=1),
                layout.tail,
                policy.max_interval + policy.max_draft,
            )
            evidence = (view.stop - view.start) * store.key_bytes if captured else 0
            read += evidence + (length - layout.tail + layout.sink + layout.count) * store.position_bytes
    row.memory = SparseMemory(length, layout.tail, layout.sink + layout.count, plans, fresh=length)
    return read


def _batches(row: Row, layout: Layout, captured: int) -> Iterator[tuple[int, ...]]:
    """Full-attention layers of equal shape, as many at once as the evidence may take."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, store in sorted(row.kv.layers.items()):
        if store.spec.window is None:
            groups.setdefault((store.keys.shape[0], store.keys.shape[2]), []).append(index)
    for layers in groups.values():
        heads = row.queries.gather(layers[0], [0]).shape[1]
        size = max(1, heads * captured * (layout.tail - layout.sink) * 4)
        step = max(1, EVIDENCE_BYTES // size)
        for first in range(0, len(layers), step):
            yield tuple(layers[first : first + step])


def _view(row: Row, layout: Layout, layers: tuple[int, ...]) -> View:
    keys = [row.kv.layers[layer].keys[:, layout.sink : layout.tail] for layer in layers]
    return View(layout.sink, layout.tail, row.kv.length, layout.count, layers, keys)


def _evidence(row: Row, view: View, captured: list[int]) -> Evidence:
    logits = [
        _logits(row.kv.layers[layer], row.queries.gather(layer, captured), keys)
        for layer, keys in zip(view.layers, view.keys, strict=True)
    ]
    return Evidence(torch.stack(logits), len(captured))


def _logits(store: LayerKV, queries: Tensor, keys: Tensor) -> Tensor:
    """``[H_kv, G * captured, P]`` float32 from queries ``[captured, H, D]`` and keys ``[H_kv, P, D]``."""
    captured, heads, dim = queries.shape
    kv_heads = keys.shape[0]
    grouped = queries.transpose(0, 1).reshape(kv_heads, heads // kv_heads * captured, dim)
    logits = grouped.float() @ keys.float().transpose(-1, -2) * store.spec.scaling
    if (cap := store.spec.softcap) is not None:
        logits = cap * torch.tanh(logits / cap)
    return logits


def _check(positions: Tensor, view: View, selector: Selector) -> None:
    shape = (len(view.layers), view.keys[0].shape[0], view.count)
    if tuple(positions.shape) != shape:
        raise PluginError(
            f"selector {type(selector).__name__} returned positions of shape {tuple(positions.shape)}; "
            f"expected {shape} (layers, KV heads, count)"
        )
