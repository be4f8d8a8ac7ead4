"""What is computed with a linear layer: the norm before it, and a gate, a sum or a rotation after it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Rotary(NamedTuple):
    """Rotary position embedding of the heads that a product begins with, and their norms before it.

    A head ``[D]`` becomes ``head * cos + turned * sin``, where ``turned`` is its second half, negated, and
    its first.

    Attributes:
        cos, sin: ``[R * n, D]`` in the inputs' dtype.
        queries, keys: heads, the queries' first; what follows them stays as it is.
        query_norm, key_norm: ``[D]``, the weights of an RMS norm of each head before it is turned, or None.
        eps: of these norms.
    """

    cos: Tensor
    sin: Tensor
    queries: int
    keys: int
    query_norm: Tensor | None = None
    key_norm: Tensor | None = None
    eps: float = 0.0

    def turned(self, product: Tensor) -> Tensor:
        """``product [R * n, N]`` with its heads normed and turned, each step rounded."""
        dim = self.cos.shape[-1]
        sizes = [self.queries * dim, self.keys * dim]
        *heads, rest = torch.split(product, [*sizes, product.shape[-1] - sum(sizes)], -1)
        norms = self.query_norm, self.key_norm
        found = [self._turned(*each, dim) for each in zip(heads, norms, strict=True)]
        return torch.cat([*found, rest], -1)

    def _turned(self, part: Tensor, norm: Tensor | None, dim: int) -> Tensor:
        heads = part.reshape(*part.shape[:-1], -1, dim)
        if norm is not None:
            heads = rms_norm(heads, norm, self.eps)
        first, second = heads.chunk(2, -1)
        turned = torch.cat([-second, first], -1)
        found: Tensor = heads * self.cos[:, None] + turned * self.sin[:, None]
        return found.flatten(-2)


def rms_norm(inputs: Tensor, weight: Tensor, eps: float) -> Tensor:
    """In float32, and rounded before it is weighted, as transformers' decoders have it."""
    wide = inputs.float()
    return weight * (wide * (wide.square().mean(-1, keepdim=True) + eps).rsqrt()).to(inputs.dtype)


class Beside(NamedTuple):
    """What is computed with a linear layer ``[R * n, K]`` by ``[N, K]``.

    Attributes:
        norm: ``[K]``, the weight of the inputs' RMS norm, in their dtype, which is not float16; or None.
        eps: of the norm.
        residual: ``[R * n, N]`` in the inputs' dtype or None; added last.
        gated: whether the result is ``silu(first) * second`` of the product's halves, ``[R * n, N / 2]``;
            there is no residual then.
        rotary: of the product's heads, or None. There is no bias, gate or residual then, N is a multiple
            of D, and D is 64, 128 or 256.
    """

    norm: Tensor | None = None
    eps: float = 0.0
    residual: Tensor | None = None
    gated: bool = False
    rotary: Rotary | None = None
