"""Sessions whose keys and values lie in pages of one pool."""

from __future__ import annotations

import gc
import threading

import pytest

from sfi_agent.errors import PoolFullError
from sfi_agent.runtime.pages import PAGE
from sfi_agent.runtime.runtime import Runtime


@pytest.fixture
def paged(tiny, shared):
    """Opens a runtime of the shared model with pages of so many bytes."""
    opened = []

    def open_with(size=2**23):
        opened.append(Runtime.load(shared.model, tokenizer=shared.tokenizer, kv_bytes=size))
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


def test_what_fits_no_page_is_refused_and_loses_nothing(tiny, paged):
    runtime, policy = paged(2**17), tiny.policy("dense", kernel="torch")
    free, said = runtime.pool.free, ""
    try:
        runtime.generate(tiny.prompt(PAGE * (free + 1)), policy=policy, sampling=tiny.sampling(4))
    except PoolFullError as error:  # not pytest.raises, which would keep the turn and its pages
        said = str(error)
    assert "drop other sessions" in said
    gc.collect()  # an error and the frames that it went through hold one another
    assert runtime.pool.free == free


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
