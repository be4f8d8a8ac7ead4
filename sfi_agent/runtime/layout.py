"""How a context divides into sink, candidates and recent positions."""

from __future__ import annotations

from dataclasses import dataclass

from sfi_agent.policy import Policy


@dataclass(frozen=True)
class Layout:
    """How a budget divides at one context length.

    Attributes:
        sink: first positions kept.
        tail: where recent begins.
        count: positions to select between the two.
    """

    sink: int
    tail: int
    count: int

    @classmethod
    def of(cls, policy: Policy, length: int) -> Layout | None:
        """The layout at ``length`` tokens, or None when they are too few or the budget covers them."""
        budget = policy.positions(length)
        if length < policy.dense_below or budget >= length:
            return None
        recent = max(1, min(policy.recent, budget // 2))
        sink = min(policy.sink, budget - recent)
        return cls(sink, length - recent, budget - recent - sink)

    def positions(self, length: int) -> int:
        """That a KV head remembers of ``length`` tokens."""
        return length - self.tail + self.sink + self.count
