"""A budget by mass: each head keeps what it needs for a share of its attention."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sfi_agent.contracts import top_jointly
from sfi_plugins.selectors.index import IndexSelector


@dataclass
class TopPSelector(IndexSelector):
    """For each KV head the fewest positions that hold ``mass`` of its attention (Twilight, arXiv 2502.02770).

    Ranks like ``index``, positions only. The budget bounds all heads together: where they want more, the
    lightest of all their positions are left out.

    Attributes:
        mass: share of the estimated probability to keep, in (0, 1].
    """

    mass: float = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.mass <= 1:
            raise ValueError(f"mass must be above 0 and at most 1 (given {self.mass})")
        if self.page != 1:
            raise ValueError(f"page must be 1: mass is counted by position (given {self.page})")

    def choose(self, scores: Tensor, count: int) -> Tensor:
        enough = heaviest(scores, self.mass)
        # Ranked above 0 what is needed, below it the rest, which the budget may admit but mass does not.
        chosen = top_jointly(torch.where(enough, scores, -1.0), min(count, scores.shape[-1]), 0).positions
        needed = enough.gather(-1, chosen.clamp_min(0)) & (chosen >= 0)
        return torch.where(needed, chosen, -1).sort(-1).values


def heaviest(scores: Tensor, mass: float) -> Tensor:
    """Mask ``[..., P]`` of the fewest positions whose probabilities ``[..., P]`` sum to ``mass``."""
    ordered, order = scores.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    return torch.zeros_like(scores, dtype=torch.bool).scatter(-1, order, before < mass)
