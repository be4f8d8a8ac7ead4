"""A coding to test kernels with."""

from __future__ import annotations

import torch
from torch import Tensor

from sfi_agent.contracts import Coding


class EvenCoding(Coding):
    """Evenly spaced levels, after a random rotation.

    Args:
        bits: 1, 2 or 4.
    """

    nearest = True

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self.levels = tuple((2 * symbol + 1 - 2**bits) * 1.6 / 2**bits for symbol in range(2**bits))

    def rotation(self, like: Tensor) -> Tensor:
        drawn = torch.randn(2 * like.shape[-1:], generator=torch.Generator().manual_seed(3))
        turned: Tensor = torch.linalg.qr(drawn.double()).Q
        return turned.float().to(like.device)

    def code(self, keys: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        symbols, scales, _ = self.symbols(keys, mean)
        each = 8 // self.bits
        shifts = torch.arange(0, 8, self.bits, device=keys.device)
        parts = symbols.view(*symbols.shape[:-1], -1, each) << shifts
        return parts.sum(-1).to(torch.uint8), scales.float()

    def symbols(self, keys: Tensor, mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of keys ``[..., D]`` less ``mean``, in float64.

        Returns:
            symbols ``[..., D]`` int64; scales ``[...]``, by which the levels' product with the rotated key is
            that key's with itself; and ``[..., D]``, how far each element is from another symbol.
        """
        turned = (keys.double() - mean) @ self.rotation(keys).double()
        even = turned / turned.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-12)
        levels = torch.tensor(self.levels, dtype=torch.float64, device=keys.device)
        edges = (levels[1:] + levels[:-1]) / 2
        symbols = torch.bucketize(even, edges)
        scales = turned.square().sum(-1) / (turned * levels[symbols]).sum(-1).clamp_min(1e-12)
        return symbols, scales, (even[..., None] - edges).abs().amin(-1)


class InvertedCoding(EvenCoding):
    """A code that a kernel cannot find by itself."""

    nearest = False

    def code(self, keys: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        codes, scales = super().code(keys, mean)
        return codes.bitwise_not(), scales / 2
