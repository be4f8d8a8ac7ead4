"""How long a draft should be: what acceptance and the measured cost of steps say."""

from __future__ import annotations

from dataclasses import dataclass, field

PROBE_TOKENS = 4
"""Length of a draft that only measures."""
FIRST_PAUSE, LONGEST_PAUSE = 16, 256
"""Tokens decoded densely before drafting is tried again, doubling while it does not pay."""


@dataclass
class StepCosts:
    """Seconds of a fast step, a dense step, and each further token that a verify reads.

    Exponential averages, shared by the turns of a runtime; None until first measured.
    """

    fast: float | None = None
    dense: float | None = None
    verify: dict[int, float] = field(default_factory=dict)

    def observe(self, tokens: int, seconds: float, *, fast: bool) -> None:
        """A decode step that read ``tokens`` took ``seconds``."""
        if fast:
            self.fast = _blend(self.fast, seconds)
        elif tokens == 1:
            self.dense = _blend(self.dense, seconds)
        else:
            self.verify[tokens] = _blend(self.verify.get(tokens), seconds)

    def verifying(self, tokens: int) -> float | None:
        """Seconds of a dense step over ``tokens``, interpolated between the sizes seen."""
        known = dict(self.verify)
        if self.dense is not None:
            known[1] = self.dense
        if not known:
            return None
        below = max((size for size in known if size <= tokens), default=None)
        above = min((size for size in known if size >= tokens), default=None)
        if below is None or above is None:
            size = below or above or 1
            return known[size] * max(1.0, tokens / size) if below else known[size]
        share = (tokens - below) / (above - below) if above > below else 0.0
        return known[below] + share * (known[above] - known[below])


def _blend(old: float | None, new: float) -> float:
    return new if old is None else 0.8 * old + 0.2 * new


@dataclass
class DraftLimit:
    """Tokens to draft next, for one turn.

    Args:
        longest: the policy's ``max_draft``.
        adaptive: follow acceptance and cost; otherwise always ``longest``.
        costs: measured so far; this object reads them, the turn fills them.
    """

    longest: int
    adaptive: bool
    costs: StepCosts
    _accepted: float = 3.2
    _tried: float = 4.0
    _pause: int = 0
    _next_pause: int = FIRST_PAUSE

    def next(self) -> int:
        """Tokens to draft now; 0: decode the next token densely."""
        if not self.adaptive:
            return self.longest
        if self._pause > 0:
            self._pause -= 1
            return 0
        if self.costs.fast is None:
            return min(PROBE_TOKENS, self.longest)
        if self.costs.dense is None:
            return 0
        best = max(range(self.longest + 1), key=self._rate)
        if best:
            self._next_pause = FIRST_PAUSE
            return best
        self._pause, self._next_pause = self._next_pause, min(2 * self._next_pause, LONGEST_PAUSE)
        return min(PROBE_TOKENS, self.longest)

    def verified(self, drafted: int, accepted: int) -> None:
        """Learn from a draft, counting each token up to the first one refused."""
        self._accepted = 0.9 * self._accepted + accepted
        self._tried = 0.9 * self._tried + min(accepted + 1, drafted)

    @property
    def acceptance(self) -> float:
        """Share of drafted tokens, up to the first refused, that were accepted lately."""
        return self._accepted / self._tried

    def _rate(self, drafted: int) -> float:
        """Expected tokens a second with drafts of this length."""
        a = min(self.acceptance, 0.995)
        expected = (1 - a ** (drafted + 1)) / (1 - a)
        seconds = drafted * (self.costs.fast or 0.0) + (self.costs.verifying(drafted + 1) or 0.0)
        return expected / max(seconds, 1e-9)
