"""Attention over sink, selected and recent positions, gathered anew at every step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sfi_agent.contracts import LayerSpec
from sfi_kernels.dense_attention.reference import attend


@dataclass(frozen=True)
class Plan:
    """Where to look: ``positions [H_kv, S]`` and everything from ``tail`` on."""

    positions: Tensor
    tail: int


def causal_tail(n: int, total: int, device: torch.device) -> Tensor:
    """``[n, total]`` bool: every query sees all but those of the last n that follow it."""
    position = torch.arange(total, device=device)
    return position <= position[total - n :, None]


def sparse_attention(plan: Plan, queries: Tensor, keys: Tensor, values: Tensor, spec: LayerSpec) -> Tensor:
    """The contract of :meth:`sfi_agent.contracts.AttentionKernel.sparse`."""
    n, (kv_heads, length, _) = queries.shape[0], keys.shape
    recent = torch.arange(plan.tail, length, device=keys.device).expand(kv_heads, -1)
    index = torch.cat([plan.positions, recent], dim=1)
    mask = causal_tail(n, index.shape[1], keys.device) & (index >= 0)[:, None, None]
    return attend(queries, gathered(keys, index), gathered(values, index), spec, mask)


def gathered(store: Tensor, positions: Tensor) -> Tensor:
    """``[H_kv, S, D]``: the entries of ``store`` ``[H_kv, L, D]`` at ``positions`` ``[H_kv, S]``; 0 at -1."""
    unused = positions < 0
    taken = store.gather(1, positions.clamp_min(0)[..., None].expand(-1, -1, store.shape[2]))
    return taken.masked_fill_(unused[..., None], 0) if bool(unused.any()) else taken
