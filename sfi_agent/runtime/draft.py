"""How long a draft should be: what acceptance and the measured cost of steps say.

Turns that share steps draft as many tokens each, for they are verified together: what is worth it is decided
once for all that ask after the same step. What was decided is judged by the tokens it has given.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from sfi_agent.runtime.step import Work

PROBE_TOKENS = 4
"""Length of a draft that only measures, where fast steps are faster than dense ones."""
FIRST_PAUSE, LONGEST_PAUSE = 32, 1024
"""Steps in which no turn drafts before it is tried again, doubling while it does not pay."""
MEMORY = 0.95
"""Weight of what was seen before, at each new draft."""
JUDGED = 32
"""Drafts after which they are judged, and at least four of each turn."""


@dataclass
class DraftCosts:
    """What the steps of so many rows take.

    Attributes:
        fast, dense: seconds of a fast and of a one-token dense step; None until first measured. What
            disturbs a machine only adds time, so a faster step counts at once and a slower one slowly.
        verify: seconds of a dense step over more tokens a row, by their number.
        pause: steps still to be made without drafts; ``next_pause`` is the one after it.
    """

    fast: float | None = None
    dense: float | None = None
    verify: dict[int, float] = field(default_factory=dict)
    pause: int = 0
    next_pause: int = FIRST_PAUSE

    def observe(self, tokens: int, seconds: float, *, fast: bool, shared: bool = False) -> None:
        """A decode step that read ``tokens`` of each row took ``seconds``.

        One ``shared`` with rows that did something else tells how long a step takes until another one does.
        """
        known = self.fast if fast else self.verify.get(tokens) if tokens > 1 else self.dense
        if shared and known is not None:
            return
        if fast:
            self.fast = _blend(self.fast, seconds)
        elif tokens == 1:
            self.dense = _blend(self.dense, seconds)
        else:
            self.verify[tokens] = _blend(self.verify.get(tokens), seconds)

    def verifying(self, tokens: int) -> float | None:
        """Seconds of a dense step over ``tokens`` a row: on the line through the sizes seen next to it.

        A step over fewer tokens is taken to be no slower than those seen over more.
        """
        known = self.verify if self.dense is None else {1: self.dense, **self.verify}
        if not known:
            return None
        sizes = sorted(known)
        least = [*accumulate((known[size] for size in reversed(sizes)), min)][::-1]
        if len(sizes) == 1 or tokens <= sizes[0]:
            return least[0] * max(1.0, tokens / sizes[0])
        at = min(bisect_left(sizes, tokens), len(sizes) - 1)
        each = (least[at] - least[at - 1]) / (sizes[at] - sizes[at - 1])
        return least[at] + (tokens - sizes[at]) * each


def _blend(old: float | None, new: float) -> float:
    return new if old is None else min(new, 0.8 * old + 0.2 * new)


@dataclass
class Payoff:
    """What turns that draft have got since that was last judged.

    Attributes:
        drafts: that were verified.
        tokens: of all turns, also of those that did not draft meanwhile.
        dense: tokens that dense steps give as many turns in that time.
        turns: most at a time.
    """

    drafts: int = 0
    tokens: int = 0
    dense: float = 0.0
    turns: int = 0

    @property
    def known(self) -> bool:
        """Whether there are drafts enough to judge by."""
        return self.drafts >= max(JUDGED, 4 * self.turns) and self.dense > 0


@dataclass
class DraftRecord:
    """What drafting has cost and given so far, shared by the turns of a runtime.

    Attributes:
        costs: of steps of as many rows as the last one had.
        accepted, tried: drafted tokens that were kept, and those up to the first refused.
        decided: tokens to draft, as a turn was told since the last step; None: none has asked.
        payoff: of the latest drafts.
    """

    costs: DraftCosts = field(default_factory=DraftCosts)
    accepted: float = 3.2
    tried: float = 4.0
    decided: int | None = None
    payoff: Payoff = field(default_factory=Payoff)
    _counts: bool = True
    _by_rows: dict[int, DraftCosts] = field(default_factory=dict)

    @property
    def acceptance(self) -> float:
        """Share of drafted tokens, up to the first refused, that were accepted lately."""
        return self.accepted / self.tried

    def step_over(self, works: Sequence[Work], *, prompts: bool = False) -> None:
        """A step of turns with this record, which read ``prompts`` or none, is over.

        They are about to be told.
        """
        self.decided, self._counts = None, not prompts
        if rows := sum(not work.prefill for work in works):
            self.costs = self._costs_of(rows)

    def took(
        self, works: Sequence[Work], seconds: float, *, prompts: bool = False, turns: int | None = None
    ) -> None:
        """So long it took, and to tell them; what it gave beside prompts is not judged.

        Args:
            works: of the step.
            seconds: that it took.
            prompts: whether it read some of prompts, too.
            turns: with this record that decode, those that waited counted; None: as many as there are works.
        """
        decoding = [work for work in works if not work.prefill]
        fast, tokens = {work.fast for work in decoding}, {len(work.tokens) for work in decoding}
        mixed = len(fast) > 1 or (len(tokens) > 1 and 1 in tokens)
        for kind in fast:
            most = max(len(work.tokens) for work in decoding if work.fast == kind)
            self.costs.observe(most, seconds, fast=kind, shared=mixed or prompts)
        turns = turns or len(decoding)
        dense = self._costs_of(turns).dense if turns else None
        if (True in fast or tokens - {1}) and dense and not prompts:
            self.payoff.tokens += sum(not work.fast and len(work.tokens) == 1 for work in decoding)
            self.payoff.dense += turns * seconds / dense
            self.payoff.turns = max(self.payoff.turns, turns)

    def verified(self, drafted: int, accepted: int) -> None:
        """Learn from a draft, counting each token up to the first one refused."""
        self.accepted = MEMORY * self.accepted + accepted
        self.tried = MEMORY * self.tried + min(accepted + 1, drafted)
        if self._counts:
            self.payoff.drafts += 1
            self.payoff.tokens += accepted + 1

    def judged(self) -> float | None:
        """Tokens that the latest drafts gave for each that dense steps make in that time; None: too few yet.

        Whatever was reckoned, this is what came of it: all that happens between steps is in their seconds.
        """
        payoff = self.payoff
        if not payoff.known:
            return None
        self.payoff = Payoff()
        return payoff.tokens / payoff.dense

    def _costs_of(self, rows: int) -> DraftCosts:
        return self._by_rows.setdefault((rows - 1).bit_length(), DraftCosts())


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
        if not self.adaptive:
            return self.longest
        if self.record.decided is None:
            self.record.decided = self._decide()
        return min(self.record.decided, self.longest)

    @property
    def pausing(self) -> bool:
        """Whether the next token, too, will be decoded densely."""
        return self.adaptive and self.record.costs.pause > 0

    def _decide(self) -> int:
        costs = self.record.costs
        if costs.pause > 0:
            costs.pause -= 1
            return 0
        if costs.dense is None:
            return 0
        if costs.fast is None:
            return 1
        if costs.fast >= costs.dense:
            return self._try(1)  # no draft can pay
        if (paid := self.record.judged()) is not None:
            if paid < 1:
                return self._try(0)
            costs.next_pause = FIRST_PAUSE
        if best := max(range(self.longest + 1), key=self._rate):
            return best
        return self._try(min(PROBE_TOKENS, self.longest))

    def _try(self, tokens: int) -> int:
        """A draft that only measures, or none, and a pause after it."""
        costs = self.record.costs
        costs.pause, costs.next_pause = costs.next_pause, min(2 * costs.next_pause, LONGEST_PAUSE)
        return tokens

    def _rate(self, drafted: int) -> float:
        """Expected tokens a second of a row with drafts of this length."""
        a, costs = min(self.record.acceptance, 0.995), self.record.costs
        expected = (1 - a ** (drafted + 1)) / (1 - a)
        seconds = drafted * (costs.fast or 0.0) + (costs.verifying(drafted + 1) or 0.0)
        return expected / max(seconds, 1e-9)
