"""Which prompts are read next: as much of them as one step takes, so that who decodes waits for one step."""

from __future__ import annotations

from collections.abc import Sequence

from sfi_agent.runtime.asked import RowAsk
from sfi_agent.runtime.shape import LANE_TOKENS

STEP_TOKENS = LANE_TOKENS
"""Of a step in which prompts are read, about: what a lane takes."""


class Intake:
    """Chooses for a sequence of steps. Every prompt is read in the end, and one at least at every step."""

    def __init__(self) -> None:
        self._filled: int | None = None  # number of the prompt that left no other one room, in the last step

    def taken(self, asks: Sequence[RowAsk]) -> list[RowAsk]:
        """Those of the next step: whoever decodes, and as many chunks of prompts as there is room for.

        The prompt that came first comes first, so that each one's turn comes; then those of which the least
        is left, so that a short one need not wait for long ones: where there is room for one, they take
        turns. A prompt that begins as another that is being read waits until that much of it is there, and
        goes on behind it.
        """
        taken = [ask for ask in asks if not ask.work.prefill]
        prompts = [ask for ask in asks if ask.work.prefill]
        room = STEP_TOKENS - sum(len(ask.work.tokens) for ask in taken)
        under_way = [ask for ask in prompts if not ask.may_join]
        first = min(prompts, key=lambda ask: ask.job.number, default=None)
        if first:  # or whom it waits for
            first = next((other for other in under_way if _is_read_for(first, other)), first)
            leads = self._filled != first.job.number
            prompts.sort(key=lambda ask: ((ask is first) != leads, ask.left, ask.job.number))
        read: list[RowAsk] = []
        crowded = False
        for ask in prompts:
            tokens = len(ask.work.tokens)
            if any(_is_read_for(ask, other) for other in (*under_way, *read)):
                continue
            if read and tokens > room:
                crowded = True
            elif begun := _begun(ask):
                read.append(begun)
                room -= tokens
        self._filled = read[0].job.number if crowded and len(read) == 1 else None
        return taken + read


def _is_read_for(ask: RowAsk, other: RowAsk) -> bool:
    """Whether another prompt has, and is about to have read, more of this one than this one has."""
    others, number = ask.job.turn.others, other.job.number
    if others is None or not ask.may_join or other.job.turn.others is None or other.start < ask.start:
        return False
    if (shared := ask.job.alike.get(number)) is None:
        shared = ask.job.alike[number] = others.shared(other.job.turn.prompt)
    return shared > max(ask.start, other.row.kv.exact)


def _begun(ask: RowAsk) -> RowAsk | None:
    """With what others have read of its prompt since it came; None where that fails, which ends it."""
    if not ask.may_join:
        return ask
    try:
        ask.job.turn.begin_as_others()
    except Exception as error:  # of its selector, which is told to forget
        ask.job.error = error
        return None
    return RowAsk.of(ask.job)
