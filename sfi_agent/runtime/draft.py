"""How long a draft should be: what acceptance and the measured cost of steps say."""

from __future__ import annotations

from dataclasses import dataclass, field

PROBE_TOKENS = 4
"""Length of a draft that only measures, where fast steps are faster than dense ones."""
FIRST_PAUSE, LONGEST_PAUSE = 32, 1024
"""Tokens decoded densely before drafting is tried again, doubling while it does not pay."""
MEMORY = 0.9
"""Weight of what was seen before, at each new draft."""


@dataclass
class DraftRecord:
    """What drafting has cost and given so far, shared by the turns of a runtime.

    Attributes:
        fast, dense: seconds of a fast and of a one-token dense step; None until first measured. What
            disturbs a machine only adds time, so a faster step counts at once and a slower one slowly.
        verify: seconds of a dense step over more tokens, by their number.
        accepted, tried: drafted tokens that were kept, and those up to the first refused.
        pause: tokens still to be decoded without a draft; ``next_pause`` is the one after it.
    """

    fast: float | None = None
    dense: float | None = None
    verify: dict[int, float] = field(default_factory=dict)
    accepted: float = 3.2
    tried: float = 4.0
    pause: int = 0
    next_pause: int = FIRST_PAUSE

    @property
    def acceptance(self) -> float:
        """Share of drafted tokens, up to the first refused, that were accepted lately."""
        return self.accepted / self.tried

    def observe(self, tokens: int, seconds: float, *, fast: bool, prompts: bool = False) -> None:
        """A decode step that read ``tokens`` took ``seconds``.

        One that read ``prompts``, too, tells how long a step takes until another one does.
        """
        known = self.fast if fast else self.verify.get(tokens) if tokens > 1 else self.dense
        if prompts and known is not None:
            return
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
    return new if old is None else min(new, 0.8 * old + 0.2 * new)


@dataclass
class DraftLimit:
    """Tokens to draft next, for one turn.

    Args:
        longest: the policy's ``max_draft``.
        adaptive: follow acceptance and cost; otherwise always ``longest``.
        record: what was measured so far.
    """

    longest: int
    adaptive: bool
    record: DraftRecord

    def next(self) -> int:
        """Tokens to draft now; 0: decode the next token densely."""
        record = self.record
        if not self.adaptive:
            return self.longest
        if record.pause > 0:
            record.pause -= 1
            return 0
        if record.dense is None:
            return 0
        if record.fast is None:
            return 1
        if record.fast >= record.dense:
            return self._try(1)  # no draft can pay
        if best := max(range(self.longest + 1), key=self._rate):
            record.next_pause = FIRST_PAUSE
            return best
        return self._try(min(PROBE_TOKENS, self.longest))

    @property
    def pausing(self) -> bool:
        """Whether the next token, too, will be decoded densely."""
        return self.adaptive and self.record.pause > 0

    def verified(self, drafted: int, accepted: int) -> None:
        """Learn from a draft, counting each token up to the first one refused."""
        self.record.accepted = MEMORY * self.record.accepted + accepted
        self.record.tried = MEMORY * self.record.tried + min(accepted + 1, drafted)

    def _try(self, tokens: int) -> int:
        """A draft that only measures, and a pause after it."""
        record = self.record
        record.pause, record.next_pause = record.next_pause, min(2 * record.next_pause, LONGEST_PAUSE)
        return tokens

    def _rate(self, drafted: int) -> float:
        """Expected tokens a second with drafts of this length."""
        a = min(self.record.acceptance, 0.995)
        expected = (1 - a ** (drafted + 1)) / (1 - a)
        seconds = drafted * (self.record.fast or 0.0) + (self.record.verifying(drafted + 1) or 0.0)
        return expected / max(seconds, 1e-9)
