"""What verified mode costs and gives on text that the model writes by itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from sfi_agent.evaluate.beside import DenseBeside, Pair
from sfi_agent.evaluate.compare import last_logits
from sfi_agent.events import DraftVerified, Event
from sfi_agent.hookspecs import hookimpl
from sfi_agent.policy import Policy, Sampling
from sfi_agent.runtime.runtime import Runtime
from sfi_agent.runtime.sampling import Sampler
from sfi_agent.runtime.step import Predicted


@dataclass(frozen=True)
class Drafts:
    """An answer in verified mode, beside the same answer in dense mode.

    Attributes:
        drafts: that were verified.
        mean_accepted: tokens of a draft that dense attention agreed with, mean over drafts. A draft ends
            at a boundary, so that where a text has many, they bound it.
        accepted: how many drafts had 0, 1, 2, ... tokens accepted.
        accepted_share: accepted tokens over drafted ones.
        tokens_per_pass: tokens of the answer over slow steps.
        slow_steps, fast_steps, kv_read_fraction: as in :class:`sfi_agent.runtime.result.TurnResult`.
        tokens_per_second, dense_tokens_per_second: decoding, after the first token.
        equal: whether both modes gave the same tokens.
        first_difference: the first token that differs, from 0, or None.
        tie: whether rounding explains that difference, or None.
        answer_tokens: length of the answer.
    """

    drafts: int
    mean_accepted: float
    accepted: tuple[int, ...]
    accepted_share: float
    tokens_per_pass: float
    slow_steps: int
    fast_steps: int
    kv_read_fraction: float
    tokens_per_second: float
    dense_tokens_per_second: float
    equal: bool
    first_difference: int | None
    tie: bool | None
    answer_tokens: int


class _Observer:
    """Notes the accepted length of every draft."""

    def __init__(self) -> None:
        self.accepted: list[int] = []

    @hookimpl
    def sfi_on_event(self, event: Event) -> None:
        if isinstance(event, DraftVerified):
            self.accepted.append(event.accepted)


def drafts(
    beside: DenseBeside,
    prompt: Sequence[int],
    policy: Policy,
    sampling: Sampling,
    on_tokens: Callable[[int], None] | None = None,
) -> Drafts:
    """Answer in verified mode and in dense mode.

    Args:
        beside: runs both.
        prompt: token ids.
        policy: its selector, detectors and budget draft; the mode is overridden.
        sampling: of both; drawn answers need its seed to be equal.
        on_tokens: called with the length of the answer, of each in turn.

    Raises:
        PromptError: the prompt and its answer do not fit the model's window.
    """
    observer, verified = _Observer(), policy.but(mode="verified")
    with beside.runtime.observers.heard_by(observer):
        pair = beside.ask(prompt, verified, sampling, on_tokens)
    turn, at = pair.policy, pair.divergence
    counts, number = Counter(observer.accepted), len(observer.accepted)
    return Drafts(
        drafts=number,
        mean_accepted=turn.accepted / number if number else 0.0,
        accepted=tuple(counts[n] for n in range(max(counts, default=-1) + 1)),
        accepted_share=turn.accepted / turn.drafted if turn.drafted else 0.0,
        tokens_per_pass=turn.completion_tokens / max(1, turn.slow_steps),
        slow_steps=turn.slow_steps,
        fast_steps=turn.fast_steps,
        kv_read_fraction=turn.kv_read_fraction,
        tokens_per_second=turn.decode_tokens_per_second,
        dense_tokens_per_second=pair.dense.decode_tokens_per_second,
        equal=at is None,
        first_difference=at,
        tie=None if at is None else _tie(beside.runtime, prompt, verified, sampling, pair, at),
        answer_tokens=turn.completion_tokens,
    )


def _tie(
    runtime: Runtime, prompt: Sequence[int], policy: Policy, sampling: Sampling, pair: Pair, at: int
) -> bool:
    """Whether verified mode's token is chosen once its logit is raised by what rounding may come to."""
    if at >= min(len(pair.dense.token_ids), len(pair.policy.token_ids)):
        return False
    context, other = [*prompt, *pair.dense.token_ids[:at]], pair.policy.token_ids[at]
    last = last_logits(runtime, context, policy)
    logits = last.logits.clone()
    raised = torch.maximum(logits[other] + last.rounding, logits[other].nextafter(logits.max() + 1))
    logits[other] = raised
    return Sampler(sampling).choose(Predicted(logits), context) == other
