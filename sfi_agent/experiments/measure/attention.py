"""Dense attention weights of given queries, one KV head at a time so that they fit in memory."""

from __future__ import annotations

import torch
from torch import Tensor

from sfi_agent.runtime.kv import LayerStore
from sfi_agent.runtime.layout import Layout

CHUNK_BYTES = 64 * 2**20
"""Logits computed at once stay below this."""


def candidate_mass(
    queries: Tensor, store: LayerStore, head: int, heads: slice, length: int, layout: Layout
) -> Tensor:
    """Attention that the last T tokens give each candidate, over one KV head.

    Args:
        queries: ``[T, G, D]`` of the tokens at positions ``length - T ... length - 1``.
        store: the layer's keys.
        head: KV head; ``heads`` are the G query heads that share it.
        length: tokens in the context.
        layout: candidates are ``sink ... tail - 1``.

    Returns:
        ``[T, P]`` float32: softmax over all positions up to the token, mean over G.
    """
    tokens, group, _ = queries.shape
    keys = store.span(0, length)[0][head].float()
    step = max(1, CHUNK_BYTES // (4 * group * length))
    rows = [
        _weights(queries[start : start + step], keys, store, heads, length - tokens + start)[
            ..., layout.sink : layout.tail
        ].mean(1)
        for start in range(0, tokens, step)
    ]
    return torch.cat(rows)


def _weights(queries: Tensor, keys: Tensor, store: LayerStore, heads: slice, first: int) -> Tensor:
    """``[n, G, L]`` attention weights of queries ``[n, G, D]``, the first of them at position ``first``."""
    logits = store.spec.logits(queries.float() @ keys.T)
    places = torch.arange(keys.shape[0], device=keys.device)
    hidden = places > (first + torch.arange(len(queries), device=keys.device))[:, None]
    logits = logits.masked_fill(hidden[:, None], float("-inf"))
    if (sinks := store.spec.sinks) is not None:
        column = sinks[heads].float().view(1, -1, 1).expand(len(queries), -1, 1)
        logits = torch.cat([logits, column], dim=-1)
    return logits.softmax(-1)[..., : keys.shape[0]]
