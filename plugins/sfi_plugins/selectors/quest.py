"""Quest: pages ranked by an upper bound at every fast step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sfi_agent.contracts import Evidence, KeyIndex, Ranking, Selection, Selector, View, top_positions
from sfi_plugins.indexes.pages import PageBounds


@dataclass
class QuestSelector(Selector):
    """Whole pages whose keys could at best match the step's query most (Quest, arXiv 2406.10774).

    Attributes:
        page: positions in a page.
    """

    evidence_rows: ClassVar[int] = 0
    reranks: ClassVar[bool] = True

    page: int = 16

    def __post_init__(self) -> None:
        if self.page < 1:
            raise ValueError(f"page must be at least 1 (given {self.page})")

    def refresh(self, evidence: Evidence, view: View) -> Selection:
        """Everything is a candidate."""
        everything = torch.arange(view.start, view.stop, device=evidence.logits.device)
        return Selection(everything.expand(*evidence.logits.shape[:2], -1).contiguous())

    def index(self, layer: int) -> KeyIndex | None:
        return PageBounds(self.page)

    def rerank(self, queries: Tensor, index: KeyIndex | None, ranking: Ranking) -> Tensor:
        assert index is not None
        if ranking.count == 0:
            return queries.new_empty(len(queries), ranking.heads, 0, dtype=torch.int64)
        grouped = queries.unflatten(1, (ranking.heads, -1))
        bounds = index.products(grouped, ranking.start, ranking.stop, ranking.candidates).amax(2)
        return top_positions(bounds, ranking.count, ranking.start).positions
