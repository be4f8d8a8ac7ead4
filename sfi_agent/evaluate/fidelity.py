"""How closely fast steps follow dense attention when both read the same text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sfi_agent.errors import PromptError
from sfi_agent.evaluate.teacher import Reader
from sfi_agent.policy import Policy
from sfi_agent.runtime import memory
from sfi_agent.runtime.meter import Meter
from sfi_agent.runtime.parts import Boundaries
from sfi_agent.runtime.queries import RecentQueries
from sfi_agent.runtime.runtime import Runtime
from sfi_agent.runtime.step import Work
from sfi_agent.runtime.text import TextStream

BLOCK = 64
"""Positions scored in one step, at most: a causal pass over given tokens is what single steps compute."""


@dataclass(frozen=True)
class Fidelity:
    """Teacher-forced comparison over the decoded positions; :func:`fidelity` says what chooses.

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


@dataclass(frozen=True)
class Reference:
    """What dense attention makes of a text; read once, compared with many policies.

    Attributes:
        tokens: prompt and continuation.
        prompt_tokens: how many of them are prompt.
        logits: ``[tokens - prompt, vocabulary]``, those that predict each token after the prompt.
        reader: holds the text's KV.
        queries: of the prompt's last tokens but one, the evidence of a first refresh.
    """

    tokens: tuple[int, ...]
    prompt_tokens: int
    logits: Tensor
    reader: Reader
    queries: RecentQueries

    @classmethod
    def read(cls, runtime: Runtime, tokens: Sequence[int], prompt_tokens: int, chunk: int = 512) -> Reference:
        """Read ``tokens`` densely, the prompt ``chunk`` tokens at a time.

        Raises:
            PromptError: the text is too short or longer than the model's window.
        """
        if not 0 < prompt_tokens < len(tokens):
            raise PromptError(
                f"the text has {len(tokens)} tokens; it needs more than the {prompt_tokens} of the prompt"
            )
        if len(tokens) > runtime.window:
            raise PromptError(
                f"{len(tokens)} tokens exceed the model's window of {runtime.window}; read fewer"
            )
        reader, start = Reader(runtime, runtime.parts(runtime.policy).kernel), prompt_tokens - 1
        if start:
            reader.prefill(tokens[:start], chunk)
        queries = reader.row.queries.copy()
        blocks = [tokens[i : min(i + BLOCK, len(tokens) - 1)] for i in range(start, len(tokens) - 1, BLOCK)]
        logits = torch.cat([reader.read(block, wanted=len(block)) for block in blocks])
        return cls(tuple(tokens), prompt_tokens, logits, reader, queries)

    def past(self) -> Reader:
        """A reader of its own that has read the prompt but its last token."""
        past = self.reader.fork(self.prompt_tokens - 1)
        past.row.queries = self.queries.copy()
        return past


def fidelity(
    runtime: Runtime,
    tokens: Sequence[int],
    prompt_tokens: int,
    policy: Policy,
    on_progress: Callable[[int, int], None] | None = None,
    *,
    reference: Reference | None = None,
) -> Fidelity:
    """Read ``tokens`` with dense attention and with ``policy`` in ``sfi`` mode, and compare.

    Fast steps are measured at any context, also where a turn would stay dense (``dense_below``). A selector
    that re-ranks chooses by its :meth:`Selector.rerank`, also where turns choose by a kernel over pages (on a
    GPU those with ``index``: queries of 8 bits, probabilities compared by keys of 7).

    Args:
        runtime: the model.
        tokens: prompt and continuation.
        prompt_tokens: how many of them are prompt, read densely by both.
        policy: its selector, detectors, budget and ``repair`` apply.
        on_progress: called with (positions compared, positions to compare).
        reference: what dense attention makes of these tokens, if it is known already.

    Raises:
        PromptError: the text is too short or longer than the model's window.
    """
    known = reference or Reference.read(runtime, tokens, prompt_tokens, policy.prefill_chunk)
    sparse = SparseReader(runtime, known.past(), policy.but(dense_below=0), prompt_tokens)
    totals, done, count = torch.zeros(5, dtype=torch.float64), 0, len(known.logits)
    for logits in sparse.read(tokens[prompt_tokens - 1 : -1]):
        end = done + len(logits)
        truth = tokens[prompt_tokens + done : prompt_tokens + end]
        totals += _compare(known.logits[done:end], logits, truth)
        done = end
        if on_progress:
            on_progress(done, count)
    return _summary(totals, sparse.meter, prompt_tokens, count)


class SparseReader:
    """The ``sfi`` loop on given tokens: slow at boundaries, fast in between.

    Args:
        runtime: whose model reads.
        past: has read the prompt but its last token.
        policy: what to read by.
        prompt_tokens: length of the prompt.
    """

    def __init__(self, runtime: Runtime, past: Reader, policy: Policy, prompt_tokens: int) -> None:
        self._reader, self._policy, self._parts = past, policy, runtime.parts(policy)
        text = TextStream(runtime.tokenizer, special=True)
        self._boundaries = Boundaries(self._parts.trigger, text, frozenset())
        # A detector that watches logits decides on each token only when those before it have been read.
        self._longest = 1 if self._parts.trigger.needs_logits else BLOCK
        self._latest: Tensor | None = None
        self._pending: list[int] = []
        self.meter = Meter(past.row, prompt_tokens - 1)

    def read(self, tokens: Sequence[int]) -> Iterator[Tensor]:
        """Logits after each token, ``[n, vocabulary]`` for n at a time."""
        fast: list[int] = []
        for token in tokens:
            slow = self._boundaries.observe(token, self._latest) or self._reader.row.memory is None
            if not slow:
                fast.append(token)
            if fast and (slow or len(fast) == self._longest):
                yield self._fast(fast)
                fast = []
            if slow:
                yield self._slow(token)
        if fast:
            yield self._fast(fast)

    def _fast(self, tokens: list[int]) -> Tensor:
        self._pending += tokens
        return self._step(tuple(tokens), fast=True)

    def _slow(self, token: int) -> Tensor:
        row, tokens = self._reader.row, (*self._pending, token)
        if self._policy.repair:
            row.truncate(row.kv.exact)
        else:
            tokens = (token,)
        logits = self._step(tokens, fast=False)[-1:]
        self._pending.clear()
        self._parts.trigger.slow_step_done()
        self.meter.read += memory.refresh(row, self._policy, self._parts.selector, self._parts.kernel)
        return logits

    def _step(self, tokens: tuple[int, ...], *, fast: bool) -> Tensor:
        logits = self._reader.read(tokens, wanted=len(tokens) if fast else 1, fast=fast)
        self.meter.count(Work(tokens, fast=fast), 0.0)
        self._latest = logits[-1]
        return logits


def _compare(dense: Tensor, sparse: Tensor, truth: Sequence[int]) -> Tensor:
    """``[agree, accept, kl, nll sparse, nll dense]`` summed over ``[n, vocabulary]`` logits, float64."""
    p, q = dense.double().log_softmax(-1), sparse.double().log_softmax(-1)
    token = torch.tensor(truth, device=dense.device)[:, None]
    each = [
        (dense.argmax(-1) == sparse.argmax(-1)).double(),
        torch.minimum(p.exp(), q.exp()).sum(-1),
        (p.exp() * (p - q)).sum(-1),
        -q.gather(-1, token)[:, 0],
        -p.gather(-1, token)[:, 0],
    ]
    return torch.stack(each).sum(-1).cpu()


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
