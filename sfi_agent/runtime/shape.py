"""Shapes of captured steps: a few sizes, so that steps of any rows share a few graphs."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from sfi_agent.contracts import Coding
from sfi_agent.runtime.asked import RowAsk
from sfi_agent.runtime.remembered import Chosen, Listed

SHORTEST = 4096
"""Launches are laid out for contexts of this many tokens, or twice as many, and so on."""
EACH = (16, 32, 64, 192, 512)
"""Tokens that a row may have, of steps in which some have several: each is a kernel of its own. The last is a
prompt's chunk where policies are as they come; a slow step then reads 129 at most."""
LONG = 192
"""Tokens of a row past which there are fewer sizes: a prompt comes by many, and would wait for each to
be captured."""
LANE_ROWS, LANE_TOKENS = 256, 1088
"""Rows of one lane, and their tokens together, at most."""
TOGETHER = (16, 32, 64, 128, 192, 256, 384, 512, 576, 768, LANE_TOKENS)
"""Tokens of such a step: some are room for one or two chunks and for rows that decode."""


@dataclass(frozen=True)
class Shape:
    """What a captured step is good for.

    Attributes:
        rows, tokens: up to so many rows, a power of two, of up to so many tokens together.
        each: tokens of a row, at most; where it is 1 there are as many tokens as rows.
        found: of how many tokens there are logits: of all, or of those that are wanted, of which each row has
            one at most unless it verifies a draft.
        span: the longest context; a power of two.
        listed: places that a head may have listed; 0: nothing is.
        coding: by which rows choose; None: they do not.
        most: positions that one head may be given by a choice.
        reach: where the longest stretch to choose from ends, a power of two.
        queries: whether some rows' queries are kept for evidence.
        drawn: whether some rows' tokens are drawn.
        cut: whether some of them are of the likeliest only.
        mixed: whether some rows are dense among others that are not.
    """

    rows: int
    tokens: int
    each: int
    found: int
    span: int
    listed: int = 0
    coding: Coding | None = None
    most: int = 0
    reach: int = 0
    queries: bool = False
    drawn: bool = False
    cut: bool = False
    mixed: bool = False

    @property
    def whole(self) -> bool:
        """Whether there are logits of all tokens."""
        return self.found == self.tokens

    @classmethod
    def of(cls, asks: Sequence[RowAsk], heads: int, vocabulary: int) -> Shape:
        """For these rows, of a model with so many KV heads."""
        tokens = [len(ask.work.tokens) for ask in asks]
        wanted = [ask.work.wanted for ask in asks]
        single, long = max(tokens) == 1, max(tokens) > LONG
        memories = [memory for ask in asks if (memory := ask.memory)]
        choices = [memory for memory in memories if isinstance(memory, Chosen)]
        longest = max(ask.start + len(ask.work.tokens) for ask in asks)
        draws = [draw for ask in asks if (draw := ask.work.draw)]
        widths = [each.places.shape[2] for each in memories if isinstance(each, Listed)]
        return cls(
            mixed=0 < len(memories) < len(asks),
            rows=_power(len(asks)),
            tokens=_power(len(asks)) if single else _of(TOGETHER, max(sum(tokens), EACH[-1] if long else 0)),
            each=1 if single else _of(EACH, max(tokens)),
            found=_power(len(asks)) if max(wanted) <= 1 else _of(TOGETHER, sum(wanted)),
            span=_span(longest, 4 if long else 2),
            listed=_power(max(widths)) if widths else 0,  # 1 where nothing is remembered but what is recent
            coding=choices[0].coding if choices else None,
            most=_power(max(choice.most(heads) for choice in choices)) if choices else 0,
            reach=_span(max(choice.tail for choice in choices), 2) if choices else 0,
            drawn=bool(draws),
            cut=any(draw.likeliest(vocabulary) for draw in draws),
            queries=any(ask.kept for ask in asks),
        )


def _power(count: int) -> int:
    """The least power of two from ``count`` on."""
    return 1 << max(count - 1, 0).bit_length()


def _span(longest: int, factor: int) -> int:
    span = SHORTEST
    while span < longest:
        span *= factor
    return span


def _of(sizes: Sequence[int], count: int) -> int:
    """The least of these, ascending, from ``count`` on."""
    return sizes[bisect_left(sizes, count)]
