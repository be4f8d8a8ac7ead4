"""Turns cancelled at random tokens, in prefill and in drafts, by the reader or from elsewhere."""

from __future__ import annotations

import random
import threading
from collections import Counter

import pytest

from sfi_agent import Runtime
from sfi_agent.registry import default_registry

pytestmark = pytest.mark.chaos
PROMPT, TOKENS = 70, 24


@pytest.mark.parametrize("mode", ["dense", "sfi", "verified"])
def test_cancelled_at_random_tokens(tiny, tmp_path, rounds, tell, mode):
    """What was told stays, the session goes on from it, and its neighbours notice nothing.

    Where the mode promises dense output, the pieces together are the uninterrupted answer; the last of them
    is written by another runtime, which reads the session from the disk.
    """
    source, outcomes = random.Random(mode), Counter()
    policy = tiny.policy(mode, adaptive_draft=False)

    def opened() -> Runtime:
        registry = default_registry()
        return Runtime.load(tiny.model(), tokenizer=tiny.tokenizer, store=tmp_path, registry=registry)

    histories: dict[str, tuple[list[int], tuple[int, ...]]] = {}
    with opened() as runtime:
        for number in range(rounds(8, 100)):
            prompt, id = tiny.prompt(PROMPT, seed=number), f"s{number}"
            expected = tiny.run(runtime, prompt, "dense", TOKENS + 1).token_ids
            beside = threading.Thread(target=_neighbour, args=(tiny, runtime, policy, number, outcomes))
            beside.start()
            history = list(prompt)
            while len(history) < PROMPT + TOKENS // 2:
                history += _cut_somewhere(tiny, runtime, policy, history, id, source, outcomes)
            beside.join()
            histories[id] = history, expected
    with opened() as runtime:
        for id, (history, expected) in histories.items():
            left = PROMPT + TOKENS + 1 - len(history)
            rest = runtime.generate(history, policy=policy, sampling=tiny.sampling(left), session=id)
            assert rest.reused_tokens >= PROMPT
            if mode != "sfi":
                assert (*history[PROMPT:], *rest.token_ids) == expected
            outcomes["sessions that went on"] += 1
    assert outcomes["neighbours disturbed"] == 0
    assert outcomes["in the answer"] >= len(histories)
    tell(outcomes)


def _cut_somewhere(tiny, runtime, policy, history, id, source, outcomes) -> tuple[int, ...]:
    """A turn that is cancelled after a chunk or a few tokens; what it generated."""
    cut, chunks = source.randint(0, 6), source.randint(1, 3)
    stream = None

    def on_progress(done: int, total: int) -> None:
        nonlocal chunks
        chunks -= 1
        if cut == 0 and chunks == 0:
            stream.cancel()

    stream = runtime.stream(
        history,
        policy=policy,
        sampling=tiny.sampling(PROMPT + TOKENS - len(history)),
        session=id,
        on_progress=on_progress,
    )
    told: list[int] = []
    with stream:
        for chunk in stream:
            told += chunk.token_ids
            if cut and len(told) >= cut:
                if source.random() < 0.5:
                    break
                threading.Thread(target=stream.cancel).start()
    result = stream.result
    assert result.token_ids[: len(told)] == tuple(told)
    outcomes["in the answer" if result.token_ids else "in prefill"] += 1
    return result.token_ids


def _neighbour(tiny, runtime, policy, number, outcomes) -> None:
    """A turn without a session, which shares its steps with the one that is cancelled."""
    prompt = tiny.prompt(40, seed=1000 + number)
    first, second = (
        runtime.generate(prompt, policy=policy, sampling=tiny.sampling(12)).token_ids for _ in range(2)
    )
    outcomes["neighbours"] += 1
    outcomes["neighbours disturbed"] += first != second
