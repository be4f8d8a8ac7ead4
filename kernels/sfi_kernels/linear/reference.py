"""A linear layer in plain PyTorch."""

from __future__ import annotations

from torch import Tensor


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``inputs [T, K]`` times ``weight [N, K]``, plus ``bias [N]``: ``[T, N]``, summed in float32."""
    out = inputs.float() @ weight.float().t()
    return (out if bias is None else out + bias.float()).to(inputs.dtype)
