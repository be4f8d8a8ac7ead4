"""The same prompt under a policy and under dense attention, which answers each prompt once."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from sfi_agent.policy import Policy, Sampling
from sfi_agent.runtime.result import TurnResult
from sfi_agent.runtime.runtime import Runtime

Key = tuple[tuple[int, ...], Sampling, str, int]


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

    def ask(self, prompt: Sequence[int], policy: Policy, sampling: Sampling) -> Pair:
        """Answer ``prompt`` under ``policy``, and under dense attention unless that is known.

        The policy comes first, in a session of its own; dense attention then reads nothing of the prompt
        again, because every prefill is dense.

        Raises:
            PromptError: the prompt and its answer do not fit the model's window.
        """
        session = f"beside-{secrets.token_hex(4)}"
        key = (tuple(prompt), sampling, policy.kernel, policy.prefill_chunk)
        try:
            ours = self.runtime.generate(prompt, policy=policy, sampling=sampling, session=session)
            if key not in self._known:
                dense = policy.but(mode="dense")
                self._known[key] = self.runtime.generate(
                    prompt, policy=dense, sampling=sampling, session=session
                )
        finally:
            self.runtime.drop_session(session)
        return Pair(self._known[key], ours)
