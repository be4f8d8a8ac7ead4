"""Kind ``drafts``: what verified mode costs and gives on a greedy answer to a workload's context."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

from sfi_agent.evaluate.compare import measure_tie
from sfi_agent.events import DraftVerified, Event
from sfi_agent.experiments.measure.base import Measurement, Progress, Reading
from sfi_agent.hookspecs import hookimpl
from sfi_agent.policy import Policy, Sampling
from sfi_agent.runtime.result import TurnResult
from sfi_agent.runtime.runtime import Runtime


@dataclass(frozen=True)
class Drafts:
    """A greedy answer in verified mode, beside the same answer in dense mode.

    Attributes:
        drafts: that were verified.
        mean_accepted: tokens of a draft that dense attention agreed with, mean over drafts.
        accepted: how many drafts had 0, 1, 2, ... tokens accepted.
        accepted_share: accepted tokens over drafted ones.
        tokens_per_pass: tokens of the answer over slow steps.
        slow_steps, fast_steps, kv_read_fraction: as in :class:`sfi_agent.runtime.result.TurnResult`.
        tokens_per_second, dense_tokens_per_second: decoding, after the first token.
        equal: whether both modes gave the same tokens.
        first_difference: the first token that differs, or None.
        tie: whether rounding explains that difference (see :func:`sfi_agent.evaluate.compare.measure_tie`),
            or None.
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


class DraftsMeasurement(Measurement[TurnResult, Drafts]):
    """The answer has ``decode`` tokens whatever the model's own end; the policy's mode is overridden."""

    kind: ClassVar[str] = "drafts"
    version: ClassVar[int] = 1
    result: ClassVar[type[Drafts]] = Drafts
    plots: ClassVar[tuple[str, ...]] = ("accepted", "speed")

    def prepare(self, runtime: Runtime, reading: Reading, on_progress: Progress) -> TurnResult:
        """The dense answer."""
        return _answer(runtime, reading, Policy(mode="dense"), on_progress)

    def measure(
        self, runtime: Runtime, reading: Reading, policy: Policy, shared: TurnResult, on_progress: Progress
    ) -> Drafts:
        observer = _Observer()
        runtime.registry.add(observer)
        given = _answer(runtime, reading, policy.but(mode="verified"), on_progress)
        counts, drafts = Counter(observer.accepted), len(observer.accepted)
        pairs = enumerate(zip(given.token_ids, shared.token_ids, strict=True))
        index = next((i for i, (ours, dense) in pairs if ours != dense), None)
        return Drafts(
            drafts=drafts,
            mean_accepted=given.accepted / drafts if drafts else 0.0,
            accepted=tuple(counts[n] for n in range(max(counts, default=-1) + 1)),
            accepted_share=given.accepted / given.drafted if given.drafted else 0.0,
            tokens_per_pass=given.completion_tokens / max(1, given.slow_steps),
            slow_steps=given.slow_steps,
            fast_steps=given.fast_steps,
            kv_read_fraction=given.kv_read_fraction,
            tokens_per_second=given.decode_tokens_per_second,
            dense_tokens_per_second=shared.decode_tokens_per_second,
            equal=index is None,
            first_difference=index,
            tie=None if index is None else _tie(runtime, reading, shared, policy, index),
            answer_tokens=given.completion_tokens,
        )


def _answer(runtime: Runtime, reading: Reading, policy: Policy, on_progress: Progress) -> TurnResult:
    sampling = Sampling(max_new_tokens=reading.decode, ignore_eos=True)
    prompt, done = reading.tokens[: reading.context], 0
    with runtime.stream(prompt, policy=policy, sampling=sampling) as stream:
        for chunk in stream:
            done += len(chunk.token_ids)
            on_progress(done, reading.decode)
    return stream.result


def _tie(runtime: Runtime, reading: Reading, dense: TurnResult, policy: Policy, index: int) -> bool:
    context = [*reading.tokens[: reading.context], *dense.token_ids[:index]]
    return measure_tie(runtime, context, policy, index).tie
