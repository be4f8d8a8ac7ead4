"""Sessions whose keys and values lie in pages of one pool."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from sfi_agent.errors import PromptError
from sfi_agent.runtime.pages import PAGE
from sfi_agent.runtime.runtime import Runtime
from sfi_agent.runtime.turn import Turn


@pytest.fixture
def paged(tiny, shared):
    """Opens a runtime of the shared model with pages of so many bytes."""
    opened = []

    def open_with(size=2**23, **options):
        opened.append(Runtime.load(shared.model, tokenizer=shared.tokenizer, kv_bytes=size, **options))
        return opened[-1]

    yield open_with
    for runtime in opened:
        runtime.close()


@pytest.mark.parametrize("mode", ["dense", "sfi", "verified"])
@pytest.mark.parametrize("selector", ["snapkv", "quest", "recent"])
def test_pages_change_no_token(tiny, shared, paged, mode, selector):
    policy = tiny.policy(mode, selector=selector, kernel="torch")
    prompt, sampling = tiny.prompt(200), tiny.sampling(24)
    wanted = shared.generate(prompt, policy=policy, sampling=sampling)
    found = paged().generate(prompt, policy=policy, sampling=sampling)
    assert found.token_ids == wanted.token_ids


def test_rows_at_once_answer_as_alone(tiny, paged):
    runtime, policy, sampling = paged(), tiny.policy("sfi", kernel="torch"), tiny.sampling(16)
    prompts = [tiny.prompt(150 + 40 * seed, seed) for seed in range(3)]
    alone = [runtime.generate(prompt, policy=policy, sampling=sampling).token_ids for prompt in prompts]
    together: list[object] = [None] * 3

    def run(index):
        together[index] = runtime.generate(prompts[index], policy=policy, sampling=sampling).token_ids

    threads = [threading.Thread(target=run, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_a_new_session_begins_with_the_pages_of_another(tiny, paged):
    runtime, policy, sampling = paged(), tiny.policy("dense", kernel="torch"), tiny.sampling(8)
    prompt = tiny.prompt(200)
    first = runtime.generate(prompt, policy=policy, sampling=sampling, session="a")
    used = runtime.pool.free
    second = runtime.generate(prompt, policy=policy, sampling=sampling, session="b")
    assert second.token_ids == first.token_ids
    assert second.reused_tokens == (len(prompt) - 1) // PAGE * PAGE
    assert used - runtime.pool.free <= 2, "only what differs takes pages"
    third = runtime.generate(prompt, policy=policy, sampling=sampling, session="a")
    assert third.token_ids == first.token_ids


def test_a_turn_that_can_never_fit_is_told_how_many_tokens_would(tiny, paged):
    runtime, policy = paged(2**17), tiny.policy("dense", kernel="torch")
    fit = runtime.pool.tokens
    with pytest.raises(PromptError, match=rf"up to {fit + 1} tokens .*; {fit} tokens would fit") as said:
        runtime.generate(tiny.prompt(fit - 3), policy=policy, sampling=tiny.sampling(4))
    assert "\n" not in str(said.value)
    runtime.generate(tiny.prompt(fit - 4), policy=policy, sampling=tiny.sampling(4), session="a")
    assert runtime.pool.free == 0
    assert len(runtime.generate(tiny.prompt(9), policy=policy, sampling=tiny.sampling(4)).token_ids) == 4


def test_an_answer_without_limit_ends_where_the_pages_do(tiny, paged):
    runtime, policy = paged(2**17), tiny.policy("dense", kernel="torch")
    fit = runtime.pool.tokens
    result = runtime.generate(tiny.prompt(fit - 9), policy=policy, sampling=tiny.sampling(None))
    assert (result.completion_tokens, result.finish_reason) == (9, "length")


@pytest.mark.parametrize("mode", ["dense", "verified"])
def test_more_sessions_than_fit_take_turns(tiny, shared, paged, mode):
    """At once and one after another: those that wait leave for those that run, and come back."""
    runtime, sampling = paged(2**18), tiny.sampling(6)
    policy = tiny.policy(mode, kernel="torch", adaptive_draft=False)
    prompts = [[3 + number, *tiny.prompt(150, seed=number % 2)] for number in range(8)]
    assert runtime.pool.pages < 8 * 3, "three pages each"
    for _ in range(2):
        expected = [shared.generate(prompt, policy=policy, sampling=sampling).token_ids for prompt in prompts]

        def answer(number, prompts=prompts):
            told = runtime.generate(prompts[number], policy=policy, sampling=sampling, session=f"s{number}")
            return told.token_ids

        with ThreadPoolExecutor(8) as threads:
            assert list(threads.map(answer, range(8))) == expected
        assert [answer(number) for number in range(8)] == expected
        prompts = [[*prompt, *told, 9] for prompt, told in zip(prompts, expected, strict=True)]


def test_turns_that_share_a_long_beginning_run_together(tiny, paged):
    """Pages are kept free for what a turn will share, as for the rest, but only until it began."""
    runtime, policy = paged(12 * 2**15), tiny.policy("dense", kernel="torch")
    begin, room = tiny.prompt(PAGE * 4), runtime.pool.free
    ask = {"policy": policy, "sampling": tiny.sampling(4), "timeout": 30}
    with ExitStack() as open_turns:
        for number in range(3):
            stream = runtime.stream([*begin, 7 + number, 9], session=f"s{number}", **ask)
            next(open_turns.enter_context(stream))
        assert room == 11 < 3 * 5
        assert room - runtime.pool.free == 4 + 3


def test_a_stored_session_takes_pages_for_what_its_turn_keeps(tiny, shared, paged, tmp_path):
    ask = {"policy": tiny.policy("dense", kernel="torch"), "sampling": tiny.sampling(4), "session": "a"}
    with Runtime.load(shared.model, tokenizer=shared.tokenizer, store=tmp_path) as first:
        first.generate(tiny.prompt(400), **ask)
    runtime = paged(4 * 2**15, store=tmp_path)
    assert runtime.pool.tokens == 192
    prompt = [*tiny.prompt(100), 7, 9]
    told = runtime.generate(prompt, **ask)
    assert told.reused_tokens == 100
    assert told.token_ids == tiny.run(shared, prompt, "dense", 4).token_ids


def test_a_turn_that_fails_leaves_its_pages_at_once(tiny, paged, monkeypatch):
    runtime, policy = paged(), tiny.policy("verified", kernel="torch")
    free = runtime.pool.free

    def failing(*arguments):
        raise RuntimeError("of a plugin")

    monkeypatch.setattr(Turn, "_add", failing)
    with pytest.raises(RuntimeError, match="of a plugin") as kept:
        runtime.generate(tiny.prompt(200), policy=policy, sampling=tiny.sampling(4))
    assert runtime.pool.free == free, "though the error still knows the turn"
    assert kept.traceback


def test_what_ends_leaves_its_pages_while_its_stream_is_known(tiny, paged):
    runtime, policy = paged(), tiny.policy("sfi", kernel="torch")
    free = runtime.pool.free
    with runtime.stream(tiny.prompt(200), policy=policy, sampling=tiny.sampling(8)) as stream:
        next(stream)
        assert runtime.pool.free < free
    assert runtime.pool.free == free
    with runtime.stream(tiny.prompt(200), policy=policy, sampling=tiny.sampling(8), session="a") as dropped:
        next(dropped)
        runtime.drop_session("a")
    assert runtime.pool.free == free
    assert 0 < dropped.result.kv_read_fraction <= 1.5


def test_runtimes_step_in_threads_of_their_own(tiny, paged):
    policy, sampling, prompt = tiny.policy("sfi", kernel="torch"), tiny.sampling(48), tiny.prompt(120)
    wanted = paged().generate(prompt, policy=policy, sampling=sampling).token_ids
    others = [Runtime.load(tiny.model("llama"), tokenizer=tiny.tokenizer, kv_bytes=2**23) for _ in range(2)]
    found = {}

    def run(index):
        found[index] = others[index].generate(prompt, policy=policy, sampling=sampling).token_ids

    threads = [threading.Thread(target=run, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {0: wanted, 1: wanted}


def test_a_lane_that_keeps_no_queries_leaves_no_evidence(tiny, paged):
    """A selector that needs none decodes; the next one must not take what older tokens left for them."""
    runtime, sampling, prompt = paged(), tiny.sampling(12), tiny.prompt(120)
    first = tiny.policy("sfi", selector="index", kernel="torch")
    told = runtime.generate(prompt, policy=first, sampling=sampling, session="a")
    queries = runtime.sessions["a"].row.queries
    assert queries.latest(120, 8) == list(range(112, 120)), "the prefill kept its own"
    assert queries.latest(120 + len(told.token_ids) - 1, 8) == []
