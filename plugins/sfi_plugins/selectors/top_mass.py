"""The plainest use of evidence: keep what was attended to most."""

from __future__ import annotations

from dataclasses import dataclass

from sfi_agent.contracts import Evidence, Selection, Selector, View, top_positions


@dataclass
class TopMassSelector(Selector):
    """Mean attention probability over the evidence rows, then the top (as H2O scores, arXiv 2306.14048).

    Reads logits ``[N, H_kv, R, P]``; selects ``[N, H_kv, count]``.

    Attributes:
        captured: latest query tokens to capture as evidence.
    """

    captured: int = 4

    def __post_init__(self) -> None:
        if self.captured < 1:
            raise ValueError(f"captured must be at least 1 (given {self.captured})")

    def rows_wanted(self) -> int:
        return self.captured

    def refresh(self, evidence: Evidence, view: View) -> Selection:
        return top_positions(evidence.mass(), view.count, view.start)
