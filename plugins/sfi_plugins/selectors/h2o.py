"""Heavy hitters: attention mass accumulated over every slow step."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from sfi_agent.contracts import Evidence, Selection, Selector, View, top_positions


@dataclass
class H2OSelector(Selector):
    """The positions with most attention mass over all slow steps so far (H2O, arXiv 2306.14048).

    Unlike H2O nothing is thrown away: a position that loses its place may win it back.

    Attributes:
        captured: latest query tokens to capture as evidence.
        decay: factor on what was accumulated, at each slow step; 1 forgets nothing.
    """

    captured: int = 8
    decay: float = 0.9
    _mass: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.captured < 1:
            raise ValueError(f"captured must be at least 1 (given {self.captured})")
        if not 0 <= self.decay <= 1:
            raise ValueError(f"decay must be in [0, 1] (given {self.decay})")

    def rows_wanted(self) -> int:
        return self.captured

    def reset(self) -> None:
        self._mass.clear()

    def refresh(self, evidence: Evidence, view: View) -> Selection:
        mass = torch.stack(
            [
                self._accumulated(layer, seen, view.start)
                for layer, seen in zip(view.layers, evidence.mass(), strict=True)
            ]
        )
        return top_positions(mass, view.count, view.start)

    def _accumulated(self, layer: int, seen: Tensor, start: int) -> Tensor:
        """``[H_kv, P]``: what the layer's candidates have gathered, ``seen`` included."""
        before = self._mass.get(layer)
        if before is not None:
            known = before[:, start : start + seen.shape[1]]
            seen = seen + self.decay * functional.pad(known, (0, seen.shape[1] - known.shape[1]))
        self._mass[layer] = functional.pad(seen, (start, 0))  # by position, as the sink may change
        return seen
