"""A slow step where the model has become unsure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from sfi_agent.contracts import BoundaryDetector


@dataclass
class DriftDetector(BoundaryDetector):
    """Fires where the entropy of the next token's distribution leaves its running mean behind.

    A sparse memory that has gone stale leaves the model guessing, which shows as entropy; entropy also
    rises where the text itself is open, so it costs some slow steps that were not needed. (Entropy as the
    sign that more context is needed: Entropix-style sampling; for retrieval FLARE, arXiv 2305.06983.)

    Attributes:
        excess: nats above the running mean that fire.
        memory: weight of the past in the running mean, in [0, 1).
    """

    watches: ClassVar[bool] = True

    excess: float = 1.5
    memory: float = 0.95
    _mean: float | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.excess < float("inf"):
            raise ValueError(f"excess must be a number of nats from 0 on (given {self.excess})")
        if not 0 <= self.memory < 1:
            raise ValueError(f"memory must be at least 0 and below 1 (given {self.memory})")

    def watch(self, logits: Tensor) -> bool:
        doubt = entropy(logits)
        before = doubt if self._mean is None else self._mean
        self._mean = self.memory * before + (1 - self.memory) * doubt
        return doubt - before > self.excess

    def reset(self) -> None:
        self._mean = None


def entropy(logits: Tensor) -> float:
    """Of the distribution that logits ``[vocabulary]`` give, nats."""
    return float(torch.distributions.Categorical(logits=logits.float()).entropy())
