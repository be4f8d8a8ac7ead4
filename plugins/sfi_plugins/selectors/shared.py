"""A few layers choose for the others."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from sfi_agent.contracts import KeyIndex, Ranking
from sfi_plugins.selectors.index import IndexSelector


@dataclass
class SharedSelector(IndexSelector):
    """Every ``stride``-th layer ranks, those after it use its choice (TidalDecode, arXiv 2410.05076).

    Ranks like ``index``; only the layers that rank have an index to read.

    Attributes:
        stride: full-attention layers that share one choice.
    """

    stride: int = 2
    _order: dict[int, int] = field(default_factory=dict, init=False, repr=False)
    _chosen: Tensor | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stride < 1:
            raise ValueError(f"stride must be at least 1 (given {self.stride})")

    def index(self, layer: int) -> KeyIndex | None:
        """One for every ``stride``-th of the layers it is asked about."""
        place = self._order.setdefault(layer, len(self._order))
        return super().index(layer) if place % self.stride == 0 else None

    def rerank(self, queries: Tensor, index: KeyIndex | None, ranking: Ranking) -> Tensor:
        if index is not None or self._chosen is None:
            self._chosen = super().rerank(queries, index, ranking)
        return self._chosen
