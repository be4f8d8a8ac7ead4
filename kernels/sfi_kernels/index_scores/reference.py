"""Logits of queries with coded keys, in plain PyTorch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sfi_agent.contracts import LayerSpec

LOG2_E = math.log2(math.e)
"""Logits are kept times this, since powers of two are what a GPU computes."""


def scores(
    queries: Tensor, rotation: Tensor, codes: Tensor, scales: Tensor, levels: Sequence[float], spec: LayerSpec
) -> Tensor:
    """Estimated logits of one row's query with every coded key.

    Args:
        queries: ``[H, D]``.
        rotation: ``[D, D]`` float32, what the keys were rotated by.
        codes: ``[H_kv, L, D * bits / 8]`` uint8, the lowest bits first.
        scales: ``[H_kv, L]``, one factor a key.
        levels: ``2 ** bits``, what each symbol stands for.
        spec: ``scaling`` and ``softcap`` are applied.

    Returns:
        ``[H, L]`` float32; ``LOG2_E`` times them is a float16.
    """
    kv_heads, bits = codes.shape[0], (len(levels) - 1).bit_length()
    asked, size = eight_bits(queries.float() @ rotation)
    stands_for, step = eight_bits(torch.tensor(levels, device=codes.device)[None])
    shifts = torch.arange(0, 8, bits, device=codes.device)
    symbols = (codes[..., None].int() >> shifts) & (2**bits - 1)
    keys = stands_for[0][symbols].flatten(2)[..., : queries.shape[1]] * scales.float()[..., None]
    grouped = asked.view(kv_heads, -1, queries.shape[1])
    logits = (grouped @ keys.transpose(1, 2)).flatten(0, 1) * (size * step * spec.scaling)
    if spec.softcap is not None:
        logits = spec.softcap * torch.tanh(logits / spec.softcap)
    return (logits * LOG2_E).half().float() / LOG2_E


def eight_bits(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows ``[..., D]`` as whole numbers of -127 to 127, and the step ``[..., 1]`` that they count."""
    step = rows.abs().amax(-1, keepdim=True).clamp_min(1e-30) / 127
    return torch.floor(rows / step + 0.5), step
