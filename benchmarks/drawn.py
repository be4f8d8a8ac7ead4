"""Verified decoding whose drafts are accepted by chance: of random weights only the speed means anything."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import takewhile

from sfi_agent.runtime.step import Outcome
from sfi_agent.runtime.turn import Turn


@contextmanager
def accepted_at(rate: float) -> Iterator[None]:
    """Inside, mode ``verified`` accepts each drafted token with this probability, until it refuses one.

    Turns are greedy and their sessions in pages.
    """
    real = Turn.verify

    def verify(turn: Turn, draft: tuple[int, ...], passed: Outcome) -> int | None:
        assert passed.best is not None
        chance = random.Random(len(turn.session.tokens) + sum(turn.prompt[:8]))
        agreed = list(takewhile(lambda _: chance.random() < rate, draft))
        refused = draft[len(agreed) :][:1]
        others = [(token + 1) % len(passed.logits[0]) for token in refused]
        best = [*agreed, *others, *passed.best[len(agreed) + len(refused) :]]
        return real(turn, draft, replace(passed, best=best))

    Turn.verify = verify
    try:
        yield
    finally:
        Turn.verify = real
