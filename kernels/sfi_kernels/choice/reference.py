"""The highest of a row's estimated attention probabilities, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

MANTISSA = 3
"""Probabilities compare by so many bits behind the leading one: two that agree so far tie."""
BINS = 128
"""Keys there are: 16 powers of two."""
LEAST = (127 - 5) << MANTISSA
"""Of a float32's upper bits, those of the lowest key: probabilities of up to 2 ** -5 of the mean tie, as do
those from 2 ** 11 times the mean on, of which there is one in 2,048 positions at most."""


def mass_of(logits: Tensor, kv_heads: int) -> Tensor:
    """``[H_kv, P]`` float32: the probabilities of ``[H, P]`` logits, averaged over each group."""
    heads, places = logits.shape
    return logits.float().softmax(-1).view(kv_heads, heads // kv_heads, places).mean(1)


def keys_of(mass: Tensor) -> Tensor:
    """int32 below ``BINS`` that rank as float32 probabilities ``[..., P]`` do, relative to their mean."""
    relative = mass * mass.shape[-1]
    return ((relative.view(torch.int32) >> (23 - MANTISSA)) - LEAST).clamp(0, BINS - 1)


def chosen(keys: Tensor, wanted: int) -> Tensor:
    """Mask ``[H_kv, P]`` of the ``wanted`` highest keys of all heads together.

    Ties go to the lower head, then to the earlier position.
    """
    flat = keys.flatten()
    wanted = min(wanted, len(flat))
    kept = torch.zeros(len(flat), dtype=torch.bool, device=keys.device)
    kept[flat.sort(descending=True, stable=True).indices[:wanted]] = True
    return kept.view(keys.shape)
