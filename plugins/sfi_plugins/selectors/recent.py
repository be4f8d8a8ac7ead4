"""No selection at all: the baseline every selector has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from sfi_agent.contracts import Evidence, Selection, Selector, View


@dataclass
class RecentSelector(Selector):
    """The latest ``count`` candidates: sparse memory is sink and recent (StreamingLLM, arXiv 2309.17453).

    Reads no evidence: logits are ``[N, H_kv, 0, P]``; selects ``[N, H_kv, count]``.
    """

    evidence_rows: ClassVar[int] = 0

    def refresh(self, evidence: Evidence, view: View) -> Selection:
        layers, heads = evidence.logits.shape[:2]
        latest = torch.arange(view.stop - view.count, view.stop, device=evidence.logits.device)
        return Selection(latest.expand(layers, heads, -1).contiguous())
