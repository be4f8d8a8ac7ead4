"""The same prompt through transformers, ``dense``, ``sfi`` and ``verified``, interleaved and repeated."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sfi_agent.evaluate.teacher import Reader
from sfi_agent.policy import MODES, Policy, Sampling
from sfi_agent.runtime.result import TurnResult
from sfi_agent.runtime.runtime import Runtime

ENGINES = ("transformers", *MODES)
TIMED = ("prefill_seconds", "first_token_seconds", "decode_tokens_per_second")
PASS = 16
"""Tokens of the many-token pass whose rounding is measured."""


@dataclass(frozen=True)
class Difference:
    """Where verified output first leaves dense output, and whether that is rounding.

    Attributes:
        index: generated token, from 0.
        gap: dense attention's best logit there less that of the token in its place.
        rounding: how far one-token passes and a many-token pass differ on the best two logits, summed;
            the largest over the last ``PASS`` positions.
        tie: ``gap <= rounding``; the two passes may then choose differently.
    """

    index: int
    gap: float
    rounding: float
    tie: bool


@dataclass(frozen=True)
class Comparison:
    """Results by engine, each timing the median of its repeats."""

    results: dict[str, TurnResult]
    repeats: int
    difference: Difference | None

    @property
    def verified_equals_dense(self) -> bool:
        """Whether both gave the same tokens."""
        return self.results["verified"].token_ids == self.results["dense"].token_ids


def compare(
    runtime: Runtime,
    prompt_ids: Sequence[int],
    policy: Policy,
    sampling: Sampling,
    *,
    repeats: int = 2,
    on_run: Callable[[str, int], None] | None = None,
) -> Comparison:
    """Run every engine ``repeats`` times, taking turns, each from an empty session.

    Args:
        runtime: the model.
        prompt_ids: the prompt.
        policy: for ``sfi`` and ``verified``; its mode is overridden.
        sampling: for all; transformers runs greedily.
        repeats: rounds.
        on_run: called with (engine, round) before each run.
    """
    runs: dict[str, list[TurnResult]] = {engine: [] for engine in ENGINES}
    for repeat in range(repeats):
        for engine in ENGINES:
            if on_run:
                on_run(engine, repeat)
            runs[engine].append(_run(runtime, engine, prompt_ids, policy, sampling))
    results = {engine: _median(of) for engine, of in runs.items()}
    return Comparison(results, repeats, _difference(runtime, prompt_ids, policy, results))


def _run(
    runtime: Runtime, engine: str, prompt_ids: Sequence[int], policy: Policy, sampling: Sampling
) -> TurnResult:
    if engine == "transformers":
        from sfi_agent.evaluate.transformers_run import transformers_run

        return transformers_run(runtime, prompt_ids, sampling)
    return runtime.generate(prompt_ids, policy=policy.but(mode=engine), sampling=sampling)


def _median(runs: Sequence[TurnResult]) -> TurnResult:
    times = {name: statistics.median(getattr(run, name) for run in runs) for name in TIMED}
    return dataclasses.replace(runs[-1], **times)


def _difference(
    runtime: Runtime, prompt_ids: Sequence[int], policy: Policy, results: dict[str, TurnResult]
) -> Difference | None:
    dense, verified = results["dense"].token_ids, results["verified"].token_ids
    index = next((i for i, (a, b) in enumerate(zip(dense, verified, strict=False)) if a != b), None)
    if index is None:
        return None
    return measure_tie(runtime, [*prompt_ids, *dense[:index]], policy, index, verified[index])


@dataclass(frozen=True)
class LastLogits:
    """What a model says after a context, and how exactly.

    Attributes:
        logits: ``[vocabulary]`` float32 after the last token, of a one-token pass.
        rounding: as in :class:`Difference`.
    """

    logits: Tensor
    rounding: float


def measure_tie(
    runtime: Runtime, context: Sequence[int], policy: Policy, index: int, token: int
) -> Difference:
    """Whether a greedy choice may be rounding's; arguments as in :func:`last_logits`.

    Args:
        index: of the token in the answer.
        token: that verified mode chose.
    """
    last = last_logits(runtime, context, policy)
    gap = float(last.logits.max() - last.logits[token])
    return Difference(index, gap, last.rounding, tie=gap <= last.rounding)


def last_logits(runtime: Runtime, context: Sequence[int], policy: Policy) -> LastLogits:
    """Read the end of ``context`` in one-token passes and in a many-token pass, and compare the logits.

    One position's rounding says little, it may even be zero, so the largest of the last ``PASS``
    positions stands for it.

    Args:
        runtime: the model.
        context: tokens before the one that differs.
        policy: gives kernel and prefill chunk.
    """
    kernel, head = runtime.parts(policy).kernel, max(0, len(context) - PASS)
    ones, many = Reader(runtime, kernel), Reader(runtime, kernel)
    if head:
        ones.prefill(context[:head], policy.prefill_chunk)
        many = ones.fork()
    one = torch.cat([ones.read([token]) for token in context[head:]]).float()
    passed = many.read(context[head:], wanted=len(context) - head).float()
    best = one.topk(2, dim=-1)
    rounding = float((best.values - passed.gather(-1, best.indices)).abs().sum(-1).max())
    return LastLogits(one[-1], rounding)
