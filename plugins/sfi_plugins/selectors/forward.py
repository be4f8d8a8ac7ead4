"""Selected positions carry the ones that follow them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from sfi_agent.contracts import Evidence, Selection, View, top_positions
from sfi_plugins.selectors.top_mass import TopMassSelector


@dataclass
class ForwardSelector(TopMassSelector):
    """``top_mass``, each position scored by the best of itself and those just before it.

    A head that copies moves one position forward at each step, so what it will read next follows what it
    read at the slow step (the induction heads of Olsson et al. 2022, arXiv 2209.11895).

    Attributes:
        captured: latest query tokens to capture as evidence.
        span: positions carried behind each.
    """

    span: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.span < 0:
            raise ValueError(f"span must be at least 0 (given {self.span})")

    def refresh(self, evidence: Evidence, view: View) -> Selection:
        mass = evidence.mass()
        if 0 < view.count < mass.shape[-1]:
            mass = carried(mass, self.span)
        return top_positions(mass, view.count, view.start)


def carried(mass: Tensor, span: int) -> Tensor:
    """``[N, H_kv, P]``: the greatest among each position and the ``span`` before it."""
    return functional.max_pool1d(functional.pad(mass, (span, 0)), span + 1, stride=1)
