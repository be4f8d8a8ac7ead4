"""How far a kernel may be from float64 arithmetic, by the dtype it is given."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Tolerance:
    """``|kernel - exact| <= atol + rtol * |exact|``, for inputs drawn from a standard normal."""

    rtol: float
    atol: float


TOLERANCES: dict[torch.dtype, Tolerance] = {
    torch.float32: Tolerance(rtol=1e-5, atol=1e-5),
    # Twice the spacing of the dtype at 1, and room for probabilities rounded to it.
    torch.float16: Tolerance(rtol=2e-3, atol=2e-3),
    torch.bfloat16: Tolerance(rtol=1.6e-2, atol=1.6e-2),
}
