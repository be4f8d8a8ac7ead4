"""Choosing the next token: the grammar's mask, transformers' repetition penalty, then seeded noise.

The noise of a token depends on the seed, the position and the token alone
(:mod:`sfi_agent.contracts.drawing`). Drafts and their verification share it, so a draft token is accepted
exactly when dense attention would have drawn it: verified sampling gives, seed for seed, the very tokens of
dense sampling, whatever was drafted. (Daliri et al. 2024, "Coupling without communication and
drafter-invariant speculative decoding".) The mask, too, depends on the prefix alone, so what is true of free
answers is true of those with a grammar.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import torch
from torch import Tensor

from sfi_agent.contracts import Draw, Drawing
from sfi_agent.contracts.drawing import weighed
from sfi_agent.grammar.constraint import Constraint
from sfi_agent.policy import Sampling
from sfi_agent.runtime.repetition import RepetitionPenalty
from sfi_agent.runtime.step import Predicted

COLDEST = 1e-9
"""Lowest temperature above 0: colder ones would divide float32 logits into infinities."""


class Sampler:
    """Draws one turn's tokens.

    Args:
        sampling: how.
        constraint: what the answer must look like; None: free.
        start: length of the prompt, where the answer begins.

    Attributes:
        seed: the seed in use, drawn where the settings have none.
        known: whether what a step finds most likely, or draws, is the token.
    """

    def __init__(self, sampling: Sampling, constraint: Constraint | None = None, start: int = 0) -> None:
        self._constraint, self._start = constraint, start
        self.seed = sampling.seed if sampling.seed is not None else secrets.randbits(63)
        self._draw = None
        if sampling.temperature:
            temperature, top_k = max(sampling.temperature, COLDEST), sampling.top_k or 0
            self._draw = Draw(temperature, self.seed, top_k, sampling.top_p)
        penalty = sampling.repetition_penalty
        self._penalty = RepetitionPenalty(penalty) if penalty != 1 else None
        self.known = not constraint and not self._penalty

    @property
    def draw(self) -> Draw | None:
        """How a step may draw the token itself; None: it is not to."""
        return self._draw if self.known else None

    def choose(self, predicted: Predicted, prefix: Sequence[int], draft: Sequence[int] = ()) -> int:
        """The token that follows ``prefix`` and ``draft``.

        Args:
            predicted: the model's at the last of these tokens, by a step that was told :attr:`draw`.
            prefix: prompt and answer so far: those of the call before, or longer.
            draft: tokens behind them that may be refused. The number of all tokens seeds the noise.
        """
        logits, best = predicted
        if best is not None and self.known:
            return best
        scores: Tensor = logits.float()[None]
        if self._constraint:
            allowed = torch.from_numpy(self._constraint.allowed([*prefix[self._start :], *draft]))
            scores = scores.masked_fill(~allowed[: scores.shape[-1]].to(logits.device), -torch.inf)
        if self._penalty:
            scores = self._penalty(scores, prefix, draft)
        if self._draw:
            position = torch.tensor([len(prefix) + len(draft)], device=logits.device)
            scores = weighed(scores, Drawing.of([self._draw], position, scores.shape[-1]))
        return int(scores.argmax())
