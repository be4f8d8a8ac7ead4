"""What must hold for every selector, boundary detector and kernel, whatever is registered."""

from __future__ import annotations

import threading

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sfi_agent.evaluate.teacher import Reader
from sfi_agent.runtime import memory
from sfi_agent.runtime.turn import Turn
from sfi_agent.testing import TOLERANCES

FEW = settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("budget", [1.0, 200])
def test_a_covering_budget_is_dense(tiny, shared, each_selector, each_kernel, budget):
    prompt = tiny.prompt(60)
    dense = tiny.run(shared, prompt, "dense", 24)
    for mode in ("sfi", "verified"):
        result = tiny.run(shared, prompt, mode, 24, selector=each_selector, kernel=each_kernel, budget=budget)
        assert result.token_ids == dense.token_ids
        assert (result.fast_steps, result.drafted) == (0, 0)


@pytest.mark.parametrize(("longest", "adaptive"), [(1, False), (3, False), (64, False), (64, True)])
def test_verified_is_dense(tiny, shared, each_selector, longest, adaptive):
    prompt = tiny.prompt(60, seed=longest)
    result = tiny.run(
        shared, prompt, "verified", 40, selector=each_selector, max_draft=longest, adaptive_draft=adaptive
    )
    assert result.token_ids == tiny.run(shared, prompt, "dense", 40).token_ids
    assert adaptive or result.drafted > 0


def test_verified_is_dense_under_every_boundary(tiny, shared, each_boundary):
    prompt = tiny.prompt(60)
    dense = tiny.run(shared, prompt, "dense", 40)
    for gap, interval in ((0, 1), (0, 5), (9, 30)):
        verified = tiny.run(
            shared, prompt, "verified", 40, boundaries=(each_boundary,),
            min_gap=gap, max_interval=interval, adaptive_draft=False,
        )  # fmt: skip
        assert verified.token_ids == dense.token_ids


@FEW
@given(
    length=st.integers(2, 90),
    tokens=st.integers(1, 30),
    budget=st.one_of(st.integers(1, 130), st.floats(0.01, 1.0)),
    sink=st.integers(0, 9),
    recent=st.integers(1, 40),
    interval=st.integers(1, 12),
    gap=st.integers(0, 12),
    draft=st.integers(1, 20),
    chunk=st.integers(1, 100),
    seed=st.integers(0, 99),
)
def test_verified_is_dense_whatever_the_settings(
    tiny, shared, length, tokens, budget, sink, recent, interval, gap, draft, chunk, seed
):
    prompt = tiny.prompt(length, seed)
    result = tiny.run(
        shared, prompt, "verified", tokens, budget=budget, sink=sink, recent=recent, max_interval=interval,
        min_gap=gap, max_draft=draft, prefill_chunk=chunk, adaptive_draft=False,
    )  # fmt: skip
    assert result.token_ids == tiny.run(shared, prompt, "dense", tokens).token_ids


def turns(tiny) -> list[tuple[list[int], str, dict]]:
    """Rows of different lengths, modes, selectors and kernels."""
    modes = ("dense", "sfi", "verified")
    selectors, kernels = ("paper", "snapkv", "recent"), ("torch", "grouped")
    return [
        (
            tiny.prompt(30 + 17 * i, seed=i),
            modes[i % 3],
            {"selector": selectors[i % 3], "kernel": kernels[i % 2]},
        )
        for i in range(6)
    ]


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss", "mixtral"])
def test_a_row_does_not_depend_on_the_rows_that_share_its_steps(tiny, of_family, family, monkeypatch):
    runtime = of_family(family)
    alone = [tiny.run(runtime, prompt, mode, 24, **more) for prompt, mode, more in turns(tiny)]
    sizes: list[int] = []
    step = runtime._batcher._step
    monkeypatch.setattr(runtime._batcher, "_step", lambda jobs: (sizes.append(len(jobs)), step(jobs)))
    streams = [
        runtime.stream(prompt, policy=tiny.policy(mode, **more), sampling=tiny.sampling(24))
        for prompt, mode, more in turns(tiny)
    ]
    # Each has joined once it gave a token; from then on all share steps.
    for stream in streams:
        next(stream)
    together = [None] * len(streams)

    def finish(i: int) -> None:
        for _ in streams[i]:
            pass
        together[i] = streams[i].result

    threads = [threading.Thread(target=finish, args=(i,)) for i in range(len(streams))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(sizes) == len(streams)
    assert [result.token_ids for result in together] == [result.token_ids for result in alone]


def test_kernels_agree_in_whole_models(tiny, of_family, each_family, each_kernel):
    """Logits of slow and fast steps over the same memory, beside the reference kernel's."""
    runtime = of_family(each_family)
    policy, tokens = tiny.policy(selector="recent", max_interval=1000), tiny.prompt(70)
    logits = []
    for name in ("torch", each_kernel):
        kernel = runtime.registry.create("kernel", name)
        selector = runtime.registry.create("selector", "recent")
        reader = Reader(runtime, kernel)
        slow = reader.read(tokens[:50], wanted=50)
        memory.refresh(reader.row, policy, selector, kernel)
        assert reader.row.memory is not None
        fast = [reader.read([token], fast=True) for token in tokens[50:]]
        logits.append(torch.cat([slow, *fast]))
    # Logits are sums over some hundred products; the table is for single attention outputs of size 1.
    bound = TOLERANCES[torch.float32]
    torch.testing.assert_close(logits[1], logits[0], rtol=10 * bound.rtol, atol=10 * bound.atol)


@pytest.mark.parametrize("seed", range(4))
def test_kernels_draft_alike(tiny, shared, each_kernel, seed):
    """A kernel that copies the memory sees what the dense pass rewrote, and forgets refused drafts."""
    runs = [
        tiny.run(
            shared, tiny.prompt(60, seed), "verified", 40, kernel=kernel, adaptive_draft=False, max_draft=4,
            max_interval=30, boundaries=(), budget=30, recent=15,
        )
        for kernel in ("torch", each_kernel)
    ]  # fmt: skip
    assert runs[0].accepted > 0
    assert (runs[1].drafted, runs[1].accepted) == (runs[0].drafted, runs[0].accepted)


def test_a_draft_is_forgotten_where_its_verification_fails(tiny, runtime, monkeypatch):
    """A plugin that fails on a token leaves nothing behind of what was drafted in its place."""
    real, policy = Turn._add, tiny.policy("verified", adaptive_draft=False, max_interval=20)
    for fails_at in range(2, 12):

        def add(turn, token, logits, fails_at=fails_at):
            latest = real(turn, token, logits)
            if len(turn.answer.tokens) == fails_at:
                raise RuntimeError("of a plugin")
            return latest

        ask = {"policy": policy, "sampling": tiny.sampling(16), "session": f"s{fails_at}"}
        with monkeypatch.context() as patched:
            patched.setattr(Turn, "_add", add)
            with pytest.raises(RuntimeError, match="of a plugin"):
                runtime.generate(tiny.prompt(80), **ask)
        session = runtime.sessions[f"s{fails_at}"]
        assert len(session.tokens) == 80 + fails_at
        history = [*session.tokens, 7]
        again = runtime.generate(history, **ask)
        assert again.reused_tokens > 80
        assert again.token_ids == tiny.run(runtime, history, "dense", 16).token_ids
