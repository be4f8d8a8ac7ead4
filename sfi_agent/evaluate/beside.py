"""The same prompt under a policy and under dense attention, which answers each prompt once."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from threading import Lock
from typing import Protocol

from sfi_agent.policy import Policy, Sampling
from sfi_agent.runtime.result import TurnResult
from sfi_agent.runtime.runtime import Runtime
from sfi_agent.runtime.stream import TurnStream

AT_ONCE, TOGETHER = 32, 65_536
"""Questions that are answered at once, sharing each model step, and prompt tokens of them, at most."""

Key = tuple[tuple[int, ...], Sampling, str, int]


class Prompted(Protocol):
    """What can be asked: token ids, and how to answer them."""

    @property
    def prompt(self) -> tuple[int, ...]: ...

    @property
    def sampling(self) -> Sampling: ...


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt."""

    dense: TurnResult
    policy: TurnResult

    @property
    def divergence(self) -> int | None:
        """The first generated token in which they differ, from 0; None if they are the same."""
        ours, theirs = self.policy.token_ids, self.dense.token_ids
        if ours == theirs:
            return None
        equal = (a == b for a, b in zip(ours, theirs, strict=False))
        return next((index for index, same in enumerate(equal) if not same), min(len(ours), len(theirs)))


class DenseBeside:
    """Runs prompts under policies, with dense attention beside them.

    Dense answers are kept, so that further policies on the same prompts cost their own share alone.

    Args:
        runtime: whose model answers.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._known: dict[Key, TurnResult] = {}

    def ask(
        self,
        prompt: Sequence[int],
        policy: Policy,
        sampling: Sampling,
        on_tokens: Callable[[int], None] | None = None,
    ) -> Pair:
        """Answer ``prompt`` under ``policy``, and under dense attention unless that is known.

        The policy comes first, in a session of its own; dense attention then reads nothing of the prompt
        again, because every prefill is dense. ``on_tokens`` is called with the length of each answer
        as it grows.

        Raises:
            PromptError: the prompt and its answer do not fit the model's window.
        """
        return self._ask(prompt, policy, sampling, _Turns(self.runtime, on_tokens))

    def ask_all(
        self,
        questions: Sequence[Prompted],
        policy: Policy,
        on_question: Callable[[int], None] | None = None,
    ) -> Iterator[Pair]:
        """The pairs of :meth:`ask`, in order; several questions at once share model steps.

        Ending the iteration early ends the turns in progress.

        Args:
            questions: any number.
            policy: in its own mode.
            on_question: called before each answer is waited for, with how many came.
        """
        done = count()
        for group in _groups(questions):
            turns = _Turns(self.runtime)
            with ThreadPoolExecutor(len(group)) as threads:
                asked = deque(
                    threads.submit(self._ask, each.prompt, policy, each.sampling, turns) for each in group
                )
                try:
                    while asked:
                        if on_question:
                            on_question(next(done))
                        yield asked.popleft().result()  # known to nobody: one that failed would know this
                finally:
                    turns.stop()

    def _ask(self, prompt: Sequence[int], policy: Policy, sampling: Sampling, turns: _Turns) -> Pair:
        session = f"beside-{secrets.token_hex(4)}"
        key = (tuple(prompt), sampling, policy.kernel, policy.prefill_chunk)
        try:
            ours = turns.run(prompt, policy, sampling, session)
            if key not in self._known:
                self._known[key] = turns.run(prompt, policy.but(mode="dense"), sampling, session)
        finally:
            self.runtime.drop_session(session)
        return Pair(self._known[key], ours)


class _Turns:
    """Turns that can be stopped from another thread."""

    def __init__(self, runtime: Runtime, on_tokens: Callable[[int], None] | None = None) -> None:
        self._runtime, self._guard, self._on_tokens = runtime, Lock(), on_tokens
        self._streams: list[TurnStream] = []
        self._stopped = False

    def run(self, prompt: Sequence[int], policy: Policy, sampling: Sampling, session: str) -> TurnResult:
        """A turn to its end.

        Raises:
            CancelledError: it was stopped.
        """
        with self._runtime.stream(prompt, policy=policy, sampling=sampling, session=session) as stream:
            with self._guard:
                self._streams.append(stream)
                if self._stopped:
                    stream.cancel()
            done = 0
            for chunk in stream:
                done += len(chunk.token_ids)
                if self._on_tokens:
                    self._on_tokens(done)
        if self._stopped:
            raise CancelledError
        return stream.result

    def stop(self) -> None:
        """End those in progress, and all that would begin."""
        with self._guard:
            self._stopped = True
            for stream in self._streams:
                stream.cancel()


def _groups(questions: Sequence[Prompted]) -> Iterator[list[Prompted]]:
    """The questions in order, as many at a time as ``AT_ONCE`` and ``TOGETHER`` allow; at least one."""
    group, tokens = list[Prompted](), 0
    for question in questions:
        full = len(group) == AT_ONCE or tokens + len(question.prompt) > TOGETHER
        if group and full:
            yield group
            group, tokens = [], 0
        group.append(question)
        tokens += len(question.prompt)
    if group:
        yield group
