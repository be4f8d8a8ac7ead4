"""How closely fast steps follow dense attention when both read the same text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sfi_agent.errors import PromptError
from sfi_agent.evaluate.teacher import Reader
from sfi_agent.policy import Policy
from sfi_agent.runtime import memory
from sfi_agent.runtime.meter import Meter
from sfi_agent.runtime.parts import Boundaries, Parts
from sfi_agent.runtime.runtime import Runtime
from sfi_agent.runtime.step import Work
from sfi_agent.runtime.text import TextStream

BLOCK = 64
"""Positions that dense attention scores in one step, ahead of the fast ones."""


@dataclass(frozen=True)
class Fidelity:
    """Teacher-forced comparison over the decoded positions.

    Attributes:
        agree: share of positions whose best token is dense attention's.
        accept: mean over positions of the sum over tokens of ``min(p_sparse, p_dense)``.
        kl: mean of KL(dense || sparse), nats.
        ppl_ratio: perplexity of the text under the policy over that under dense attention.
        kv_read_fraction: KV bytes read (slow steps and refreshes counted) over what dense reads.
        slow_rate: share of decode steps that were slow.
        prompt_tokens, decode_tokens: positions read densely first, and compared.
    """

    agree: float
    accept: float
    kl: float
    ppl_ratio: float
    kv_read_fraction: float
    slow_rate: float
    prompt_tokens: int
    decode_tokens: int


def fidelity(
    runtime: Runtime,
    tokens: Sequence[int],
    prompt_tokens: int,
    policy: Policy,
    on_progress: Callable[[int, int], None] | None = None,
) -> Fidelity:
    """Read ``tokens`` with dense attention and with ``policy`` in ``sfi`` mode, and compare.

    Args:
        runtime: the model.
        tokens: prompt and continuation.
        prompt_tokens: how many of them are prompt, read densely by both.
        policy: its selector, detectors, budget and ``repair`` apply.
        on_progress: called with (positions compared, positions to compare).

    Raises:
        PromptError: the text is too short or longer than the model's window.
    """
    if not 0 < prompt_tokens < len(tokens):
        raise PromptError(
            f"the text has {len(tokens)} tokens; it needs more than the {prompt_tokens} of the prompt"
        )
    if len(tokens) > runtime.window:
        raise PromptError(f"{len(tokens)} tokens exceed the model's window of {runtime.window}; read fewer")
    parts = runtime.parts(policy)
    dense = Reader(runtime, parts.kernel)
    if prompt_tokens > 1:
        dense.prefill(tokens[: prompt_tokens - 1], policy.prefill_chunk)
    sparse = SparseReader(runtime, dense, policy, parts, prompt_tokens)
    totals = torch.zeros(5, dtype=torch.float64)
    end = len(tokens) - 1
    for start in range(prompt_tokens - 1, end, BLOCK):
        block = tokens[start : min(start + BLOCK, end)]
        reference = dense.read(block, wanted=len(block))
        for i, token in enumerate(block):
            totals += _compare(reference[i], sparse.read(token), tokens[start + i + 1])
        if on_progress:
            on_progress(start + len(block) - prompt_tokens + 1, end - prompt_tokens + 1)
    return _summary(totals, sparse.meter, prompt_tokens, end - prompt_tokens + 1)


class SparseReader:
    """The ``sfi`` loop on given tokens: slow at boundaries, fast in between."""

    def __init__(
        self, runtime: Runtime, past: Reader, policy: Policy, parts: Parts, prompt_tokens: int
    ) -> None:
        self._reader, self._policy, self._parts = past.fork(), policy, parts
        self._text = Boundaries(parts.trigger, TextStream(runtime.tokenizer, special=True), frozenset())
        self._pending: list[int] = []
        self.meter = Meter(self._reader.row, prompt_tokens - 1)

    def read(self, token: int) -> Tensor:
        """Logits ``[vocabulary]`` after ``token``."""
        boundary, row = self._text.observe(token), self._reader.row
        fast = row.memory is not None and not boundary
        self._pending.append(token)
        if not fast and self._policy.repair:
            row.truncate(row.kv.exact)
            tokens = tuple(self._pending)
        else:
            tokens = (token,)
        logits = self._reader.read(tokens, fast=fast)
        self.meter.count(Work(tokens, fast=fast), 0.0)
        if not fast:
            self._pending.clear()
            self._refresh()
        return logits[-1]

    def _refresh(self) -> None:
        parts = self._parts
        parts.trigger.slow_step_done()
        self.meter.read += memory.refresh(self._reader.row, self._policy, parts.selector, parts.kernel)


def _compare(dense: Tensor, sparse: Tensor, truth: int) -> Tensor:
    """``[agree, accept, kl, nll sparse, nll dense]`` at one position, float64."""
    p, q = dense.double().log_softmax(-1), sparse.double().log_softmax(-1)
    return torch.stack(
        [
            (dense.argmax() == sparse.argmax()).double(),
            torch.minimum(p.exp(), q.exp()).sum(),
            (p.exp() * (p - q)).sum(),
            -q[truth],
            -p[truth],
        ]
    ).cpu()


def _summary(totals: Tensor, meter: Meter, prompt_tokens: int, count: int) -> Fidelity:
    agree, accept, kl, sparse, dense = (totals / count).tolist()
    return Fidelity(
        agree=agree,
        accept=accept,
        kl=kl,
        ppl_ratio=math.exp(sparse - dense),
        kv_read_fraction=meter.read_fraction(count + 1),
        slow_rate=meter.slow_steps / count,
        prompt_tokens=prompt_tokens,
        decode_tokens=count,
    )
