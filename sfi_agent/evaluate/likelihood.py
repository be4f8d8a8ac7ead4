"""Log-probabilities of given tokens under a policy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass

from torch import Tensor, tensor

from sfi_agent.errors import PromptError
from sfi_agent.evaluate.fidelity import BLOCK, SparseReader
from sfi_agent.evaluate.teacher import Reader
from sfi_agent.policy import Policy
from sfi_agent.runtime.runtime import Runtime


@dataclass(frozen=True)
class Score:
    """Of a continuation.

    Attributes:
        logprob: of all its tokens together, nats.
        greedy: whether each was the most probable.
    """

    logprob: float
    greedy: bool


class Scorer:
    """Scores continuations, reading a context that comes again once.

    The context is read densely, as every prefill is; the continuation is then read as ``policy`` would
    have written it, token after token: in ``sfi`` mode from the sparse memory between slow steps, in
    ``dense`` and ``verified`` mode, which give the same, by full attention.

    Args:
        runtime: the model.
        policy: how continuations are read.
    """

    def __init__(self, runtime: Runtime, policy: Policy) -> None:
        self._runtime, self._policy = runtime, policy
        self._context: tuple[int, ...] = ()
        self._past: Reader | None = None

    def score(self, context: Sequence[int], continuation: Sequence[int]) -> Score:
        """Score ``continuation`` after the end of ``context`` that fits the window with it.

        Args:
            context: at least one token.
            continuation: tokens to score; may be empty.

        Raises:
            PromptError: no context, or a continuation that leaves no room for one token of it.
        """
        if not context or len(continuation) > self._runtime.window:
            raise PromptError(
                f"a continuation needs a token before it and has at most {self._runtime.window} tokens "
                f"(given {len(context)} and {len(continuation)})"
            )
        context = context[-(self._runtime.window + 1 - len(continuation)) :]
        logprob, greedy, done = 0.0, True, 0
        inputs = [context[-1], *continuation[:-1]] if continuation else []
        for logits in self._logits(tuple(context), inputs):
            truth = tensor(continuation[done : done + len(logits)], device=logits.device)
            logprob += float(logits.float().log_softmax(-1).gather(-1, truth[:, None]).sum())
            greedy = greedy and bool((logits.argmax(-1) == truth).all())
            done += len(logits)
        return Score(logprob, greedy)

    def _logits(self, context: tuple[int, ...], tokens: Sequence[int]) -> Iterator[Tensor]:
        """``[n, vocabulary]`` for n of ``tokens`` at a time, the first of which ends the context."""
        kept = self._read(context)
        past = kept.fork()
        past.row.queries = deepcopy(kept.row.queries)  # a turn's first memory is chosen by the prompt's
        if self._policy.mode == "sfi":
            yield from SparseReader(self._runtime, past, self._policy, len(context)).read(tokens)
            return
        for start in range(0, len(tokens), BLOCK):
            block = tokens[start : start + BLOCK]
            yield past.read(block, wanted=len(block))

    def _read(self, context: tuple[int, ...]) -> Reader:
        """A reader of the context but its last token; the last one made is kept."""
        if self._past is None or context != self._context:
            self._past = Reader(self._runtime, self._runtime.parts(self._policy).kernel)
            if len(context) > 1:
                self._past.prefill(context[:-1], self._policy.prefill_chunk)
            self._context = context
        return self._past
