"""Re-ranking at every fast step, from a few bits of each key."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from sfi_agent.contracts import (
    Coding,
    Evidence,
    KeyIndex,
    Ranking,
    Selection,
    Selector,
    View,
    top_jointly,
    top_positions,
)
from sfi_plugins.indexes.rotated import RotatedCoding, RotatedIndex


@dataclass
class IndexSelector(Selector):
    """The positions that the step's own queries would attend to most, as a low-bit code of the keys tells.

    Estimated probabilities, averaged over the query heads of a group, are ranked at each fast step
    (the idea of SparQ, arXiv 2312.04985, and Double Sparsity, arXiv 2408.07092, with RaBitQ's code,
    arXiv 2405.12497). ``docs/explanation/index.md`` says why this one.

    Attributes:
        bits: of a key's element: 1, 2 or 4.
        page: choose whole pages of this many positions (1: single positions), where all are ranked. What the
            budget has beyond whole pages is not used; one below a page goes to single positions.
        jointly: share the budget among a layer's KV heads by mass; otherwise the same for each.
        candidates: share of the context to rank, chosen from the last slow step's evidence; 1: all.
        window: latest query tokens that choose candidates.
    """

    reranks: ClassVar[bool] = True

    bits: Literal[1, 2, 4] = 2
    page: int = 1
    jointly: bool = True
    candidates: float = 1.0
    window: int = 16

    def __post_init__(self) -> None:
        if self.bits not in (1, 2, 4):
            raise ValueError(f"bits must be 1, 2 or 4 (given {self.bits})")
        for name in ("page", "window"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1 (given {getattr(self, name)})")
        if not 0 < self.candidates <= 1:
            raise ValueError(f"candidates must be above 0 and at most 1 (given {self.candidates})")
        if self.page > 1 and self.candidates < 1:
            raise ValueError(f"candidates must be 1 where page is above 1 (given {self.candidates})")

    def rows_wanted(self) -> int:
        return self.window if self.candidates < 1 else 0

    def refresh(self, evidence: Evidence, view: View) -> Selection:
        """The candidates: the share that attended most at the slow step."""
        span = view.stop - view.start
        wanted = min(span, max(view.count, math.ceil(self.candidates * span)))
        if wanted == span or not evidence.captured:
            everything = torch.arange(view.start, view.stop, device=evidence.logits.device)
            return Selection(everything.expand(*evidence.logits.shape[:2], -1).contiguous())
        return top_positions(evidence.mass(), wanted, view.start)

    def index(self, layer: int) -> KeyIndex | None:
        return RotatedIndex(self.bits)

    def coding(self) -> Coding | None:
        plain = self.page == 1 and self.jointly and self.candidates == 1
        return RotatedCoding(self.bits) if plain and type(self) is IndexSelector else None

    def rerank(self, queries: Tensor, index: KeyIndex | None, ranking: Ranking) -> Tensor:
        chosen = self.choose(estimated(queries, index, ranking).mean(2), ranking.count)
        if ranking.candidates is None:
            return torch.where(chosen >= 0, chosen + ranking.start, -1)
        named = ranking.candidates.expand(len(chosen), -1, -1)
        return torch.where(chosen >= 0, named.gather(-1, chosen.clamp_min(0)), -1)

    def choose(self, scores: Tensor, count: int) -> Tensor:
        """Places ``[n, H_kv, S]`` among the scored ``[n, H_kv, C]``, -1 where unused."""
        best = top_jointly if self.jointly else top_positions
        if self.page == 1 or not self.page <= count < scores.shape[-1]:
            return best(scores, min(count, scores.shape[-1]), 0).positions
        pages = functional.max_pool1d(scores, self.page, self.page, ceil_mode=True)
        chosen = best(pages, count // self.page, 0).positions[..., None]
        places = chosen * self.page + torch.arange(self.page, device=scores.device)
        places = torch.where((chosen >= 0) & (places < scores.shape[-1]), places, -1)
        return places.flatten(-2).sort(-1).values


def estimated(queries: Tensor, index: KeyIndex | None, ranking: Ranking) -> Tensor:
    """``[n, H_kv, G, C]`` float32: attention probabilities among the candidates, as the index tells.

    Args:
        queries: ``[n, H, D]``.
        index: of the layer.
        ranking: the candidates; C is their number.
    """
    assert index is not None, "a selector that estimates makes an index for every layer it ranks"
    grouped = queries.unflatten(1, (ranking.heads, -1))
    products = index.products(grouped, ranking.start, ranking.stop, ranking.candidates)
    return ranking.spec.logits(products).softmax(-1)
