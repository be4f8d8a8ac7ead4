"""A beginning that sessions share is read once, and nothing else comes of it."""

from __future__ import annotations

import threading
from contextlib import contextmanager

import pytest

from sfi_agent.contracts import PAGE


@contextmanager
def tokens_read(runtime):
    """Tokens of every call of the model."""
    read = []

    def count(module, args, kwargs):
        read.append(kwargs["input_ids"].numel())

    hook = runtime.model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield read
    finally:
        hook.remove()


def turn(tiny, runtime, prompt, session, mode="dense", tokens=10, **settings):
    policy = tiny.policy(mode, kernel="torch", adaptive_draft=False, **settings)
    return runtime.generate(prompt, policy=policy, sampling=tiny.sampling(tokens), session=session)


def told(result):
    """All of a result that does not depend on the clock, or on what was read before."""
    return result.token_ids, result.slow_steps, result.fast_steps, result.accepted, result.kv_read_fraction


def test_the_model_is_not_run_on_what_another_session_holds(tiny, opened):
    runtime, begin = opened(), tiny.prompt(150)
    turn(tiny, runtime, [*begin, 7, 9], "a")
    with tokens_read(runtime) as read:
        second = turn(tiny, runtime, [*begin, 8, 9], "b")
    assert second.reused_tokens == 2 * PAGE
    rest = 32 if runtime.pool else 152 - 2 * PAGE  # in pages a step has a few sizes
    assert sum(read) == rest + 9, "the rest of the prompt, and the answer but for its last token"


def followed(tiny, opened, mode, selector, donor):
    """Two turns of a session that begins as another does, or alone."""
    runtime, begin = opened(), tiny.prompt(150)
    if donor:
        first = turn(tiny, runtime, [*begin, *tiny.prompt(30, seed=1)], "a", mode, selector=selector)
    prompt = [*begin, *tiny.prompt(12, seed=2)]
    results = [turn(tiny, runtime, prompt, "b", mode, selector=selector)]
    prompt = [*prompt, *results[0].token_ids, *tiny.prompt(5, seed=3)]
    results.append(turn(tiny, runtime, prompt, "b", mode, selector=selector))
    if donor:
        assert first.reused_tokens == 0
        assert results[0].reused_tokens >= PAGE
    return [told(result) for result in results]


def test_a_session_that_begins_as_another_answers_as_alone(tiny, opened, each_selector):
    alone, beside = (followed(tiny, opened, "sfi", each_selector, donor) for donor in (False, True))
    assert beside == alone


@pytest.mark.parametrize("mode", ["dense", "verified"])
def test_and_in_other_modes(tiny, opened, mode):
    alone, beside = (followed(tiny, opened, mode, "h2o", donor) for donor in (False, True))
    assert beside == alone


def test_evidence_has_all_of_its_rows(tiny, opened):
    """The latest tokens are read, though another session holds them, for their queries are nowhere."""
    runtime, prompt = opened(), tiny.prompt(3 * PAGE + 1)
    settings = {"selector": "snapkv"}
    first = turn(tiny, runtime, prompt, "a", "sfi", **settings)
    rows = runtime.sessions["a"].kept.selector.rows_wanted()
    second = turn(tiny, runtime, prompt, "b", "sfi", **settings)
    assert second.reused_tokens == 2 * PAGE == (len(prompt) - rows) // PAGE * PAGE
    assert told(second) == told(first)


def test_a_rewritten_session_takes_what_another_holds(tiny, opened):
    runtime, begin = opened(), tiny.prompt(150)
    turn(tiny, runtime, [*begin, 7], "a")
    turn(tiny, runtime, [*begin[:70], *tiny.prompt(90, seed=5)], "b", "sfi", selector="h2o")
    again = turn(tiny, runtime, [*begin, *tiny.prompt(20, seed=6)], "b", "sfi", selector="h2o")
    assert again.reused_tokens == 2 * PAGE
    alone = turn(tiny, opened(), [*begin, *tiny.prompt(20, seed=6)], "b", "sfi", selector="h2o")
    assert told(again) == told(alone)


def test_a_session_that_is_answering_gives_what_it_has_read(tiny, opened):
    """Nobody waits for it, and its own answer does not change."""
    runtime, prompt = opened(), tiny.prompt(150)
    policy = tiny.policy("verified", kernel="torch", adaptive_draft=False)
    expected = turn(tiny, opened(), prompt, None, "verified", 24).token_ids
    taken, results = threading.Event(), []

    def answer():
        with runtime.stream(prompt, policy=policy, sampling=tiny.sampling(24), session="a") as stream:
            next(stream)
            ready.set()
            taken.wait(30)
            for _ in stream:
                pass
        results.append(stream.result.token_ids)

    ready, thread = threading.Event(), threading.Thread(target=answer)
    thread.start()
    ready.wait(30)
    second = turn(tiny, runtime, prompt, "b", "verified", 24)
    taken.set()
    thread.join()
    assert second.reused_tokens >= PAGE
    assert [second.token_ids, *results] == [expected, expected]


def test_later_text_of_one_is_not_the_others(tiny, opened):
    runtime, begin = opened(), tiny.prompt(150)
    history = {"a": [*begin, 7], "b": [*begin, 8]}
    expected = {}
    for name in "ab":
        alone, past = opened(), history[name]
        for seed in range(2):
            past = [*past, *turn(tiny, alone, past, name).token_ids, *tiny.prompt(40, seed=seed)]
        expected[name] = past
    for seed in range(2):
        for name in "ab":
            answer = turn(tiny, runtime, history[name], name).token_ids
            history[name] = [*history[name], *answer, *tiny.prompt(40, seed=seed)]
    assert history == expected


def test_a_turn_without_a_session_is_a_run_of_its_own(tiny, opened):
    runtime, prompt = opened(), tiny.prompt(150)
    turn(tiny, runtime, prompt, "a")
    assert turn(tiny, runtime, prompt, None).reused_tokens == 0


def test_a_stored_session_has_what_it_took(tiny, opened, tmp_path):
    runtime, begin = opened(store=tmp_path), tiny.prompt(150)
    turn(tiny, runtime, [*begin, 7], "a")
    first = turn(tiny, runtime, [*begin, 8], "b")
    assert first.reused_tokens == 2 * PAGE
    for name in "ab":
        runtime.drop_session(name)
    follow = [*begin, 8, *first.token_ids, *tiny.prompt(9, seed=4)]
    second = turn(tiny, runtime, follow, "b")
    assert second.reused_tokens == 151 + 10 - 1
    assert second.token_ids == turn(tiny, runtime, follow, None).token_ids
