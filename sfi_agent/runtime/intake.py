"""Which prompts are read next: as much of them as one step takes, so that who decodes waits for one step."""

from __future__ import annotations

from collections.abc import Sequence

from sfi_agent.runtime.asked import Ask
from sfi_agent.runtime.shape import LANE_TOKENS

STEP_TOKENS = LANE_TOKENS
"""Of a step in which prompts are read, about: what a lane takes."""


def taken_in(asks: Sequence[Ask]) -> list[Ask]:
    """Those of the next step: whoever decodes, and as many chunks of prompts as there is room for.

    The prompt that came first is always read, so that each one's turn comes; then those of which the least
    is left, so that a short one need not wait for long ones.
    """
    prompts = [ask for ask in asks if ask.work.prefill]
    if len(prompts) < 2:
        return [*asks]
    room = STEP_TOKENS - sum(len(ask.work.tokens) for ask in asks if not ask.work.prefill)
    first = min(prompts, key=lambda ask: ask.job.number)
    read = set()
    for ask in sorted(prompts, key=lambda ask: (ask is not first, ask.left, ask.job.number)):
        tokens = len(ask.work.tokens)
        if ask is first or tokens <= room:
            read.add(id(ask))
            room -= tokens
    return [ask for ask in asks if not ask.work.prefill or id(ask) in read]
