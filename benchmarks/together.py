"""Turns that run at the same time, a thread each, as users' do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sfi_agent.policy import Policy, Sampling
from sfi_agent.runtime.result import TurnResult
from sfi_agent.runtime.runtime import Runtime


@dataclass(frozen=True)
class Turn:
    """One of them.

    Attributes:
        prompt: token ids.
        policy: of the turn.
        session: its id.
    """

    prompt: Sequence[int]
    policy: Policy
    session: str


def read(runtime: Runtime, turns: Sequence[Turn]) -> None:
    """Have each turn's session read its prompt but for the last token."""
    one = Sampling.of(max_new_tokens=1, ignore_eos=True)
    for turn in turns:
        runtime.generate(turn.prompt[:-1], policy=turn.policy, session=turn.session, sampling=one)


def together(
    runtime: Runtime,
    turns: Sequence[Turn],
    sampling: Sampling,
    prepare: Callable[[int], None] | None = None,
) -> tuple[float, list[TurnResult]]:
    """Tokens a second of these turns while all of them decode, and their results.

    That is from their second tokens on: the first is the prompt's, and so is the choice behind it.

    Args:
        runtime: runs them.
        turns: of sessions of their own.
        sampling: of all; with tokens enough that the first one does not end before the last one begins: two
            at least.
        prepare: called in each turn's thread before any begins, with its number.

    Raises:
        RuntimeError: there was no time in which all of them decoded.
    """
    ready = threading.Barrier(len(turns))
    times: list[list[float]] = [[] for _ in turns]
    results: dict[int, TurnResult] = {}

    def run(index: int) -> None:
        turn = turns[index]
        if prepare:
            prepare(index)
        ready.wait()
        with runtime.stream(
            turn.prompt, policy=turn.policy, sampling=sampling, session=turn.session
        ) as stream:
            for chunk in stream:
                times[index] += [time.perf_counter()] * len(chunk.token_ids)
        results[index] = stream.result

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(turns))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    began, ended = max(each[1] for each in times), min(each[-1] for each in times)
    if ended <= began:
        raise RuntimeError("no time in which all turns decoded: they need more tokens")
    rate = sum(began < at <= ended for each in times for at in each) / (ended - began)
    return rate, [results[index] for index in range(len(turns))]
