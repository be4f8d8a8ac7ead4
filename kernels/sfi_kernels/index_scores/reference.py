"""Logits of queries with coded keys, in plain float32."""

from __future__ import annotations

import torch
from torch import Tensor

from sfi_agent.contracts import LayerSpec


def scores(queries: Tensor, codes: Tensor, scales: Tensor, levels: Tensor, spec: LayerSpec) -> Tensor:
    """Estimated logits of one row's query with every coded key.

    Args:
        queries: ``[H, D]``, rotated as the keys were.
        codes: ``[H_kv, L, D * bits / 8]`` uint8, the lowest bits first.
        scales: ``[H_kv, L]``, one factor a key.
        levels: ``[2 ** bits]``, what each symbol stands for.
        spec: ``scaling`` and ``softcap`` are applied.

    Returns:
        ``[H, L]`` float32.
    """
    kv_heads, bits = codes.shape[0], (len(levels) - 1).bit_length()
    shifts = torch.arange(0, 8, bits, device=codes.device)
    symbols = (codes[..., None].int() >> shifts) & (2**bits - 1)
    keys = levels.float()[symbols].flatten(2)[..., : queries.shape[1]] * scales.float()[..., None]
    grouped = queries.float().view(kv_heads, -1, queries.shape[1])
    logits = (grouped @ keys.transpose(1, 2)).flatten(0, 1) * spec.scaling
    return logits if spec.softcap is None else spec.softcap * torch.tanh(logits / spec.softcap)
