"""A slow step every so many tokens, whatever they say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from sfi_agent.contracts import BoundaryDetector


@dataclass
class IntervalDetector(BoundaryDetector):
    """Fires at every ``every``-th token of the turn, counting from its first.

    Attributes:
        every: tokens from one firing to the next.
    """

    counts_tokens: ClassVar[bool] = True
    """What it does depends on how text is cut into tokens."""

    reads_text: ClassVar[bool] = False

    every: int = 32
    _seen: int = field(default=0, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every must be at least 1 (given {self.every})")

    def observe(self, text: str) -> bool:
        self._seen += 1
        return self._seen % self.every == 0

    def due(self) -> bool:
        return (self._seen + 1) % self.every == 0

    def reset(self) -> None:
        self._seen = 0
