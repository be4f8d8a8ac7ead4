"""Codes of keys, in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def coded(
    keys: Tensor, mean: Tensor, rotation: Tensor, levels: Sequence[float]
) -> tuple[Tensor, Tensor, Tensor]:
    """Symbols of rotated keys: the nearest levels of their elements over the root mean square of these.

    Args:
        keys: ``[..., D]``.
        mean: what is taken from them first, in their shape or one that spreads to it.
        rotation: ``[D, D]`` float32.
        levels: ``2 ** bits``, ascending.

    Returns:
        symbols ``[..., D]``; scales ``[...]`` float64, by which the levels' product with the rotated key is
        that key's with itself; and ``[..., D]`` float64, how far an element is from changing its symbol.
    """
    turned = (keys.double() - mean) @ rotation.double()
    even = turned / turned.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-12)
    steps = torch.tensor(levels, dtype=torch.float64, device=keys.device)
    edges = (steps[1:] + steps[:-1]) / 2
    symbols = torch.bucketize(even, edges)
    scales = turned.square().sum(-1) / (turned * steps[symbols]).sum(-1).clamp_min(1e-12)
    return symbols, scales, (even[..., None] - edges).abs().amin(-1)
