"""Turns cancelled at random tokens, in prefill and in drafts, by the reader, from elsewhere or as garbage."""

from __future__ import annotations

import gc
import random
import threading
import time
from collections import Counter
from functools import partial

import pytest

from sfi_agent import Runtime
from sfi_agent.registry import default_registry
from sfi_agent.trace import Recorder

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


@pytest.fixture
def eager_collector():
    """Garbage is looked for after every few objects: anywhere, that is, in whatever thread."""
    usual = gc.get_threshold()
    gc.set_threshold(40, 2, 2)
    yield
    gc.set_threshold(*usual)


@pytest.mark.usefixtures("eager_collector")
def test_streams_and_runtimes_are_left_to_the_collector(tiny, tmp_path, rounds, tell):
    """Each ends in a thread that may have any lock. None waits for itself, and sessions go on."""
    runtime = Runtime.load(tiny.model(), tokenizer=tiny.tokenizer, store=tmp_path)
    runtime.observers.add(recorder := Recorder(turns=10_000))
    policy, outcomes, sampling, long = tiny.policy("dense"), Counter(), tiny.sampling(8), tiny.sampling(200)
    prompts = [tiny.prompt(40, seed=number) for number in range(4)]
    expected = [runtime.generate(prompt, policy=policy, sampling=sampling).token_ids for prompt in prompts]

    def leave_streams(number: int) -> None:
        for turn in range(rounds(12, 300)):
            id = f"{number}-{turn}"
            left = [runtime.stream(prompts[number], policy=policy, sampling=long, session=id)]
            for _ in range(1 + turn % 6):
                next(left[0])
            left.append(left)
            outcomes["streams"] += 1

    def leave_runtimes() -> None:
        for _ in range(rounds(12, 300)):
            left = [Runtime.load(runtime.model, tokenizer=tiny.tokenizer)]
            left.append(left)
            outcomes["runtimes"] += 1

    works = [*(partial(leave_streams, number) for number in range(len(prompts))), leave_runtimes]
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(rounds(60, 600))
    assert not any(thread.is_alive() for thread in threads), "one waits for ever"
    gc.collect()
    until = time.monotonic() + 30  # each ends in a thread of its own
    while runtime._batcher._jobs and time.monotonic() < until:
        time.sleep(0.01)
    ends = Counter(turn.finish_reason for turn in recorder.trace.turns)
    assert sum(ends.values()) == len(prompts) + outcomes["streams"]
    assert ends["cancelled"] > outcomes["streams"] / 2
    for number, prompt in enumerate(prompts):
        for turn in range(3):
            again = runtime.generate(prompt, policy=policy, sampling=sampling, session=f"{number}-{turn}")
            assert again.token_ids == expected[number]
    runtime.close()
    assert runtime.model.config._attn_implementation != "sfi"
    tell(outcomes)
