"""A linear layer in plain PyTorch, and what may precede and follow it."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import silu

from sfi_agent.contracts import Rotary


def linear(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    norm: Tensor | None = None,
    eps: float = 0.0,
    residual: Tensor | None = None,
    gated: bool = False,
    rotary: Rotary | None = None,
) -> Tensor:
    """``inputs [T, K]`` times ``weight [N, K]``, plus ``bias [N]``: ``[T, N]``, summed in float32.

    Args:
        inputs: ``[T, K]``.
        weight: ``[N, K]``.
        bias: ``[N]`` or None.
        norm: ``[K]``, of the inputs' RMS norm; None: they are taken as they are.
        eps: of the norm.
        residual: ``[T, N]`` or None, added to the product in the inputs' dtype.
        gated: whether the result is ``silu(first) * second`` of the product's halves, ``[T, N / 2]``.
        rotary: of the product's heads, or None.
    """
    taken = inputs.float()
    if norm is not None:
        taken = taken * (taken.square().mean(-1, keepdim=True) + eps).rsqrt() * norm.float()
    out = taken @ weight.float().t()
    out = (out if bias is None else out + bias.float()).to(inputs.dtype)
    if gated:
        gate, up = out.chunk(2, -1)
        out = silu(gate) * up
    if rotary is not None:
        out = rotary.turned(out)
    return out if residual is None else out + residual
