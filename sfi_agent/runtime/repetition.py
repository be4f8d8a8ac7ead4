"""The penalty of tokens that the context already has."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class RepetitionPenalty:
    """transformers' repetition penalty, for one turn: each token of its context is looked at once.

    Args:
        penalty: above 0; above 1 it discourages.
    """

    def __init__(self, penalty: float) -> None:
        from transformers import RepetitionPenaltyLogitsProcessor

        self._processor = RepetitionPenaltyLogitsProcessor(penalty)
        self._seen: set[int] = set()
        self._ids: Tensor | None = None
        self._read = 0

    def __call__(self, scores: Tensor, prefix: Sequence[int], draft: Sequence[int]) -> Tensor:
        """Scores ``[1, vocabulary]`` of the token that follows, penalised.

        Args:
            scores: what they were.
            prefix: the context: that of the call before, or longer.
            draft: tokens behind it that may be refused; the next call does not know them.
        """
        new = dict.fromkeys(token for token in prefix[self._read :] if token not in self._seen)
        self._read = len(prefix)
        self._seen.update(new)
        self._ids = _joined(self._ids, list(new), scores.device)
        penalised: Tensor = self._processor(_joined(self._ids, draft, scores.device), scores)
        return penalised


def _joined(ids: Tensor | None, tokens: Sequence[int], device: torch.device) -> Tensor:
    """``[1, n]``: these tokens behind ``ids``."""
    if ids is not None and not tokens:
        return ids
    more = torch.tensor([list(tokens)], dtype=torch.int64, device=device)
    return more if ids is None else torch.cat([ids, more], dim=1)
