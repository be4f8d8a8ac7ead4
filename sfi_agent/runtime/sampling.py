"""Choosing the next token: the grammar's mask, transformers' logits processors, then seeded noise.

The noise at a position depends on the seed and the position alone (the Gumbel-max trick: the token
that wins ``p / noise`` has distribution p). Drafts and their verification share it, so a draft token
is accepted exactly when dense attention would have drawn it: verified sampling gives, seed for seed,
the very tokens of dense sampling, whatever was drafted. (Daliri et al. 2024, "Coupling without
communication and drafter-invariant speculative decoding".) The mask, too, depends on the prefix alone,
so what is true of free answers is true of those with a grammar.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from sfi_agent.grammar.constraint import Constraint
from sfi_agent.policy import Sampling
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
        greedy: whether it takes the most likely token of those that may come.
        plain: whether any may come, and nothing changes how likely they are.
    """

    def __init__(self, sampling: Sampling, constraint: Constraint | None = None, start: int = 0) -> None:
        self._constraint, self._start = constraint, start
        self.seed = sampling.seed if sampling.seed is not None else secrets.randbits(63)
        self.greedy = sampling.temperature == 0
        self.processors = _processors(sampling)
        self.plain = self.greedy and not constraint and not self.processors
        self._needs_prefix = sampling.repetition_penalty != 1
        self._generator = torch.Generator()

    def choose(self, predicted: Predicted, prefix: Sequence[int]) -> int:
        """The token that follows ``prefix``.

        Args:
            predicted: the model's at the last token of ``prefix``.
            prefix: every token so far; its length seeds the noise.
        """
        logits, best = predicted
        if best is not None and self.plain:
            return best
        scores = logits.float()[None]
        if self._constraint:
            allowed = torch.from_numpy(self._constraint.allowed(prefix[self._start :]))
            scores = scores.masked_fill(~allowed[: scores.shape[-1]].to(logits.device), -torch.inf)
        if self.processors:
            seen = torch.tensor([list(prefix) if self._needs_prefix else [0]], device=logits.device)
            scores = self.processors(seen, scores)  # type: ignore[arg-type]  # wants the legacy LongTensor
        if self.greedy:
            return int(scores.argmax())
        return int(
            (scores[0].softmax(-1) / self._noise(len(prefix), scores.shape[-1]).to(logits.device)).argmax()
        )

    def _noise(self, position: int, size: int) -> Tensor:
        self._generator.manual_seed((self.seed * 0x9E3779B97F4A7C15 + position * 0xD1B54A32D192ED03) % 2**63)
        return torch.empty(size).exponential_(generator=self._generator)


def _processors(sampling: Sampling) -> LogitsProcessorList:
    chosen = LogitsProcessorList()
    if sampling.repetition_penalty != 1:
        chosen.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.temperature == 0:
        return chosen
    if sampling.temperature != 1:
        chosen.append(TemperatureLogitsWarper(max(sampling.temperature, COLDEST)))
    if sampling.top_k is not None:
        chosen.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        chosen.append(TopPLogitsWarper(sampling.top_p))
    return chosen
