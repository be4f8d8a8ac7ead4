"""What kernels are compared with: float64, and attention one query and one head at a time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sfi_agent.contracts import Beside, LayerSpec


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


def exact_mass(queries: Tensor, keys: Tensor, spec: LayerSpec, power: float) -> Tensor:
    """``[H_kv, P]`` float64: the power mean of each key's probability.

    Args:
        queries: ``[n, H, D]``.
        keys: ``[H_kv, P, D]``, all of which each query sees.
        spec: ``scaling`` and ``softcap`` are applied.
        power: of the mean.
    """
    queries, keys = queries.cpu().double(), keys.cpu().double()
    group, plain = queries.shape[1] // keys.shape[0], LayerSpec(spec.scaling, spec.softcap)
    out = keys.new_zeros(keys.shape[:2])
    for head in range(queries.shape[1]):
        for query in queries[:, head]:
            out[head // group] += _weights(keys[head // group] @ query, plain, head).pow(power)
    return (out / (group * len(queries))).pow(1 / power)


def exact_linear(inputs: Tensor, weight: Tensor, bias: Tensor | None, beside: Beside) -> Tensor:
    """``[T, N]`` float64, or half as wide where gated; arguments as for ``RowsKernel.fused``."""
    inputs, weight = inputs.cpu().double(), weight.cpu().double()
    norm, eps, residual, gated, rotary = beside
    if norm is not None:
        inputs = _normed(inputs, norm, eps)
    product = inputs @ weight.t()
    if bias is not None:
        product = product + bias.cpu().double()
    if gated:
        gate, up = product.chunk(2, -1)
        product = gate / (1 + (-gate).exp()) * up
    if rotary is not None:
        cos, sin = rotary.cos.cpu().double(), rotary.sin.cpu().double()
        heads = product.reshape(len(product), -1, cos.shape[-1])
        for head in range(rotary.queries + rotary.keys):
            weights = rotary.query_norm if head < rotary.queries else rotary.key_norm
            own = heads[:, head] if weights is None else _normed(heads[:, head], weights, rotary.eps)
            first, second = own.chunk(2, -1)
            heads[:, head] = own * cos + torch.cat([-second, first], -1) * sin
        product = heads.flatten(1)
    return product if residual is None else residual.cpu().double() + product


def _normed(inputs: Tensor, weight: Tensor, eps: float) -> Tensor:
    return inputs * (inputs.square().mean(-1, keepdim=True) + eps).rsqrt() * weight.cpu().double()


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
