"""Causal attention of a row's last tokens over its whole context, in plain float32."""

from __future__ import annotations

import torch
from torch import Tensor

from sfi_agent.contracts import LayerSpec


def visible(n: int, length: int, window: int | None, device: torch.device) -> Tensor:
    """``[n, length]`` bool: which positions each of the last n tokens may see."""
    position = torch.arange(length, device=device)
    query = position[length - n :, None]
    seen = position <= query
    return seen if window is None else seen & (position > query - window)


def attend(queries: Tensor, keys: Tensor, values: Tensor, spec: LayerSpec, mask: Tensor | None) -> Tensor:
    """Softmax attention of grouped query heads, all in float32.

    Args:
        queries: ``[n, H, D]``.
        keys: ``[H_kv, M, D]``.
        values: ``[H_kv, M, D_v]``.
        spec: ``scaling``, ``softcap`` and ``sinks`` are applied here, ``window`` by the mask.
        mask: ``[n, M]`` bool, or ``[H_kv, 1, n, M]``; True where a query may look; None: everywhere.

    Returns:
        ``[n, H, D_v]`` in the queries' dtype; a query that may look nowhere gives zeros.
    """
    n, heads, dim = queries.shape
    kv_heads = keys.shape[0]
    grouped = queries.float().reshape(n, kv_heads, -1, dim).permute(1, 2, 0, 3)
    logits = spec.logits(grouped @ keys.float()[:, None].transpose(-1, -2))
    if mask is not None:
        logits = logits.masked_fill(~mask, float("-inf"))
    if spec.sinks is not None:
        sinks = spec.sinks.float().view(kv_heads, -1, 1, 1).expand(-1, -1, n, 1)
        logits = torch.cat([logits, sinks], dim=-1)
    weights = logits.softmax(-1)[..., : keys.shape[1]].nan_to_num(0.0)
    out = weights @ values.float()[:, None]
    return out.permute(2, 0, 1, 3).reshape(n, heads, -1).to(queries.dtype)


def dense_attention(queries: Tensor, keys: Tensor, values: Tensor, spec: LayerSpec) -> Tensor:
    """The contract of :meth:`sfi_agent.contracts.AttentionKernel.dense`."""
    n, length = queries.shape[0], keys.shape[1]
    return attend(queries, keys, values, spec, visible(n, length, spec.window, queries.device))
