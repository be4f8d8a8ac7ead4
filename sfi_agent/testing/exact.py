"""Attention in float64, one query and one head at a time: what kernels are compared with."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sfi_agent.contracts import LayerSpec


def exact_dense(queries: Tensor, keys: Tensor, values: Tensor, spec: LayerSpec) -> Tensor:
    """``[n, H, D_v]`` float64; arguments as for ``AttentionKernel.dense``."""
    length, window = keys.shape[1], spec.window or keys.shape[1]
    first = length - queries.shape[0]
    seen = [torch.arange(max(0, first + i + 1 - window), first + i + 1) for i in range(queries.shape[0])]
    return _exact(queries, keys, values, spec, [[places] * keys.shape[0] for places in seen])


def exact_sparse(
    queries: Tensor, keys: Tensor, values: Tensor, spec: LayerSpec, positions: Tensor, tail: int
) -> Tensor:
    """``[n, H, D_v]`` float64; arguments as for ``AttentionKernel.plan`` and ``sparse``."""
    first = keys.shape[1] - queries.shape[0]
    seen = [
        [torch.cat([planned[planned >= 0], torch.arange(tail, first + i + 1)]) for planned in positions.cpu()]
        for i in range(queries.shape[0])
    ]
    return _exact(queries, keys, values, spec, seen)


def _exact(
    queries: Tensor, keys: Tensor, values: Tensor, spec: LayerSpec, seen: list[list[Tensor]]
) -> Tensor:
    """Query i of a head attends to ``seen[i][KV head]``."""
    queries, keys, values = (tensor.detach().cpu().double() for tensor in (queries, keys, values))
    group = queries.shape[1] // keys.shape[0]
    out = queries.new_empty(*queries.shape[:2], values.shape[2])
    for i, per_head in enumerate(seen):
        for head in range(queries.shape[1]):
            places, kv = per_head[head // group], head // group
            weights = _weights(keys[kv, places] @ queries[i, head], spec, head)
            out[i, head] = weights @ values[kv, places]
    return out


def _weights(products: Tensor, spec: LayerSpec, head: int) -> Tensor:
    """``[places]`` attention weights of one query; they sum to less than 1 beside a sink logit."""
    logits = products * spec.scaling
    if spec.softcap is not None:
        logits = spec.softcap * (logits / spec.softcap).tanh()
    peak = logits.max().item() if spec.sinks is None else max(logits.max().item(), spec.sinks[head].item())
    mass = (logits - peak).exp()
    beside = 0.0 if spec.sinks is None else math.exp(spec.sinks[head].item() - peak)
    return mass / (mass.sum() + beside)
