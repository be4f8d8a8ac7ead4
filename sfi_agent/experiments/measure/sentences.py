"""Which tokens belong to one sentence, as boundary detectors see it."""

from __future__ import annotations

from collections.abc import Sequence

from sfi_agent.errors import SettingError
from sfi_agent.policy import Policy
from sfi_agent.runtime.parts import Boundaries
from sfi_agent.runtime.runtime import Runtime
from sfi_agent.runtime.text import TextStream


def sentence_numbers(runtime: Runtime, policy: Policy, tokens: Sequence[int]) -> list[int]:
    """For each token the number of boundaries up to it; the token at a boundary begins a sentence.

    The policy's minimum gap and maximum interval are left aside: they bound the trigger, not the text.

    Raises:
        SettingError: a detector reads logits, which say more about the model than about the text.
    """
    trigger = runtime.parts(policy.but(min_gap=0, max_interval=len(tokens) + 1)).trigger
    if trigger.needs_logits:
        raise SettingError(
            f"boundaries {list(policy.boundaries)} depend on logits; sentences need detectors that read "
            "tokens or text, such as punctuation or newline"
        )
    seen = Boundaries(trigger, TextStream(runtime.tokenizer, special=True), frozenset())
    numbers, number = [], 0
    for token in tokens:
        number += seen.observe(token)
        numbers.append(number)
    return numbers
