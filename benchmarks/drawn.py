"""Verified decoding whose drafts are accepted by chance: of random weights only the speed means anything."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import takewhile

from sfi_agent.runtime import modes
from sfi_agent.runtime.step import Work
from sfi_agent.runtime.turn import Turn


@contextmanager
def accepted_at(rate: float) -> Iterator[None]:
    """Inside, mode ``verified`` accepts each drafted token with this probability, until it refuses one."""
    real = modes.LOOPS["verified"]
    modes.LOOPS["verified"] = _verified(rate)
    try:
        yield
    finally:
        modes.LOOPS["verified"] = real


def _verified(rate: float) -> Callable[[Turn], modes.Steps]:
    def steps(turn: Turn) -> modes.Steps:
        chance = random.Random(len(turn.prompt) + sum(turn.prompt[:8]))
        predicted = yield from modes.prefill(turn)
        token = turn.emit(predicted)
        while token is not None:
            start = turn.row.kv.length
            draft = yield from modes._draft(turn, token)
            passed = yield Work((token, *draft), wanted=1 + len(draft))
            accepted = sum(1 for _ in takewhile(lambda _: chance.random() < rate, draft))
            taken = 0
            for predicted in list(passed)[: accepted + 1]:
                token = turn.emit(predicted)
                turn.stale = turn.stale or turn.boundary
                taken += 1
                if token is None:
                    break
            turn.row.truncate(start + taken)

    return steps
