"""Sparse attention over a compact copy: gathered at a refresh, appended to at fast steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from sfi_agent.contracts import LayerSpec
from sfi_kernels.dense_attention import grouped, reference
from sfi_kernels.sparse_attention.reference import causal_tail


@dataclass
class CompactMemory:
    """Keys and values of the memory, side by side.

    Attributes:
        keys: ``[H_kv, capacity, D]``; the first S slots are sink and selected positions, slot
            ``S + i`` is position ``tail + i``.
        values: ``[H_kv, capacity, D_v]``, likewise.
        planned: S.
        tail: first recent position.
        unused: ``[H_kv, S]`` bool, slots that hold nothing; None where all are used.
    """

    keys: Tensor
    values: Tensor
    planned: int
    tail: int
    unused: Tensor | None = None

    @classmethod
    def gather(cls, keys: Tensor, values: Tensor, positions: Tensor, tail: int, room: int) -> CompactMemory:
        """Copy what :meth:`sfi_agent.contracts.AttentionKernel.plan` names, with ``room`` to grow."""
        planned, recent = positions.shape[1], keys.shape[1] - tail
        unused = positions < 0
        if gaps := bool(unused.any()):
            positions = torch.where(unused, _remembered(positions, tail, keys.shape[1]), positions)
        stores = []
        for source in (keys, values):
            store = source.new_empty(source.shape[0], planned + recent + room, source.shape[2])
            # Row by row of a head: an element-wise gather takes ten times as long on a CPU.
            for head, kept in enumerate(positions):
                torch.index_select(source[head], 0, kept, out=store[head, :planned])
            if recent:
                store[:, planned : planned + recent] = source[:, tail:]
            stores.append(store)
        return cls(*stores, planned, tail, unused if gaps else None)

    def sync(self, keys: Tensor, values: Tensor, fresh: int) -> int:
        """Copy positions from ``fresh`` on; returns the number of slots in use."""
        used, length = self.planned + keys.shape[1] - self.tail, keys.shape[1]
        if used > self.keys.shape[1]:
            self.keys, self.values = (_grown(store, used) for store in (self.keys, self.values))
        if fresh == length:
            return used
        first = self.planned + fresh - self.tail
        self.keys[:, first:used] = keys[:, fresh:length]
        self.values[:, first:used] = values[:, fresh:length]
        return used


def _remembered(positions: Tensor, tail: int, length: int) -> Tensor | int:
    """What unused slots copy, of each head or of all: a mask hides no NaN, and a position that nobody
    remembers may hold one."""
    return tail if tail < length else positions.amax(1, keepdim=True).clamp_min(0)


def _grown(store: Tensor, used: int) -> Tensor:
    larger = store.new_empty(store.shape[0], used + used // 4, store.shape[2])
    larger[:, : store.shape[1]] = store
    return larger


def sparse_attention(
    plan: CompactMemory, queries: Tensor, keys: Tensor, values: Tensor, spec: LayerSpec, fresh: int
) -> Tensor:
    """The contract of :meth:`sfi_agent.contracts.AttentionKernel.sparse`."""
    used, n = plan.sync(keys, values, fresh), queries.shape[0]
    compact_keys, compact_values = plan.keys[:, :used], plan.values[:, :used]
    mask = causal_tail(n, used, queries.device) if n > 1 else None
    if plan.unused is not None:
        seen = ~functional.pad(plan.unused, (0, used - plan.planned))[:, None, None]
        mask = seen if mask is None else mask & seen
    if spec.softcap is None and spec.sinks is None:
        return grouped.attend(queries, compact_keys, compact_values, spec.scaling, mask)
    return reference.attend(queries, compact_keys, compact_values, spec, mask)
