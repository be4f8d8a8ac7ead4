"""The highest of a row's estimated attention probabilities, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

KEY_BITS = 22
"""Probabilities compare by their float32 form's upper bits: two that agree to 13 binary digits tie."""


def mass_of(logits: Tensor, kv_heads: int) -> Tensor:
    """``[H_kv, P]`` float32: the probabilities of ``[H, P]`` logits, averaged over each group."""
    heads, places = logits.shape
    return logits.float().softmax(-1).view(kv_heads, heads // kv_heads, places).mean(1)


def keys_of(mass: Tensor) -> Tensor:
    """int32 that rank as these float32 probabilities do."""
    return mass.contiguous().view(torch.int32) >> (31 - KEY_BITS)


def chosen(keys: Tensor, wanted: int) -> Tensor:
    """Mask ``[H_kv, P]`` of the ``wanted`` highest keys of all heads together.

    Ties go to the lower head, then to the earlier position.
    """
    flat = keys.flatten()
    wanted = min(wanted, len(flat))
    kept = torch.zeros(len(flat), dtype=torch.bool, device=keys.device)
    kept[flat.sort(descending=True, stable=True).indices[:wanted]] = True
    return kept.view(keys.shape)
