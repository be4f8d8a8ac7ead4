"""SnapKV's pooled observation window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional

from sfi_agent.contracts import Evidence, Selection, Selector, View, sliding_max, top_positions


@dataclass
class SnapKVSelector(Selector):
    """Mean probability over an observation window, pooled along positions (SnapKV, arXiv 2404.14469).

    Reads logits ``[N, H_kv, R, P]``; selects ``[N, H_kv, count]``. The query heads of a group vote
    together, since the memory belongs to their KV head.

    Attributes:
        window: latest query tokens that observe.
        kernel: positions pooled around each, odd (1: no pooling).
        pooling: ``max`` or ``avg``; an average at the ends is over the positions there are.
    """

    window: int = 16
    kernel: int = 7
    pooling: Literal["max", "avg"] = "max"

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"window must be at least 1 (given {self.window})")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd and at least 1 (given {self.kernel})")
        if self.pooling not in ("max", "avg"):
            raise ValueError(f"pooling must be 'max' or 'avg' (given {self.pooling!r})")

    def rows_wanted(self) -> int:
        return self.window

    def refresh(self, evidence: Evidence, view: View) -> Selection:
        mass = evidence.mass()
        if 0 < view.count < mass.shape[-1]:
            mass = pool(mass, self.kernel, self.pooling)
        return top_positions(mass, view.count, view.start)


def pool(mass: Tensor, kernel: int, pooling: Literal["max", "avg"]) -> Tensor:
    """``[N, H_kv, P]`` to the same shape: each position gets the max or average of those around it."""
    if pooling == "max":
        return sliding_max(mass, kernel)
    return functional.avg_pool1d(mass, kernel, stride=1, padding=kernel // 2, count_include_pad=False)
