"""A policy and dense attention on the same prompt: the same as each alone, and dense once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sfi_agent.errors import PromptTooLongError
from sfi_agent.evaluate.beside import DenseBeside, Pair
from sfi_agent.evaluate.retrieval.score import Question
from sfi_agent.runtime.step import Step


@pytest.mark.parametrize("mode", ["sfi", "verified", "dense"])
def test_both_answer_as_they_would_alone(tiny, wide, beside, mode):
    prompt, policy, sampling = tiny.prompt(300), tiny.policy(mode, adaptive_draft=False), tiny.sampling(24)
    pair = beside.ask(prompt, policy, sampling)
    alone = wide.generate(prompt, policy=policy, sampling=sampling)
    dense = wide.generate(prompt, policy=policy.but(mode="dense"), sampling=sampling)
    assert pair.policy.token_ids == alone.token_ids
    assert pair.policy.kv_read_fraction == alone.kv_read_fraction
    assert pair.dense.token_ids == dense.token_ids
    assert wide.sessions == {}


def test_dense_attention_answers_a_prompt_once(tiny, beside):
    prompt, sampling = tiny.prompt(200), tiny.sampling(8)
    first = beside.ask(prompt, tiny.policy(), sampling)
    assert beside.ask(prompt, tiny.policy(budget=40), sampling).dense is first.dense
    assert beside.ask(prompt, tiny.policy(), tiny.sampling(9)).dense is not first.dense
    assert beside.ask(prompt[1:], tiny.policy(), sampling).dense is not first.dense
    assert beside.ask(prompt, tiny.policy(kernel="torch"), sampling).dense is not first.dense


def test_a_session_does_not_outlive_a_refused_prompt(tiny, wide, beside):
    with pytest.raises(PromptTooLongError):
        beside.ask(tiny.prompt(4090), tiny.policy(), tiny.sampling(24))
    assert wide.sessions == {}


@pytest.mark.parametrize(
    ("dense", "ours", "at"),
    [((1, 2, 3), (1, 2, 3), None), ((1, 2, 3), (1, 5, 3), 1), ((1, 2), (1, 2, 3), 2), ((1, 2, 3), (1,), 1)],
)
def test_where_two_answers_part(tiny, shared, dense, ours, at):
    turn = tiny.run(shared, tiny.prompt(20), tokens=4)
    assert Pair(replace(turn, token_ids=dense), replace(turn, token_ids=ours)).divergence == at


def asked(tiny, tokens: int, count: int = 5) -> list[Question]:
    """Questions of different lengths, worth nothing."""
    return [
        Question(tuple(tiny.prompt(100 + 40 * n, seed=n)), tiny.sampling(tokens), len) for n in range(count)
    ]


def test_questions_asked_at_once_are_answered_as_alone(tiny, beside, monkeypatch):
    """Two of the five at a time, as far as their prompts allow."""
    monkeypatch.setattr("sfi_agent.evaluate.beside.TOGETHER", 400)
    questions, policy, seen = asked(tiny, 12), tiny.policy(), []
    together = [*beside.ask_all(questions, policy, seen.append)]
    alone = [DenseBeside(beside.runtime).ask(each.prompt, policy, each.sampling) for each in questions]
    assert seen == [0, 1, 2, 3, 4]
    assert [pair.policy.token_ids for pair in together] == [pair.policy.token_ids for pair in alone]
    assert [pair.policy.kv_read_fraction for pair in together] == [
        pair.policy.kv_read_fraction for pair in alone
    ]
    assert [pair.dense.token_ids for pair in together] == [pair.dense.token_ids for pair in alone]


def test_questions_share_steps(tiny, beside, wide, monkeypatch):
    rows = []
    run = Step.run
    monkeypatch.setattr(
        Step, "run", lambda self, *model: (rows.append(len(self._parts)), run(self, *model))[1]
    )
    list(beside.ask_all(asked(tiny, 12), tiny.policy()))
    assert max(rows) > 1


def test_whoever_stops_listening_ends_the_turns(tiny, wide, beside):
    """Each of the others would write 3,000 tokens more."""
    short, *long = asked(tiny, 3000)
    questions = [Question(short.prompt, tiny.sampling(4), len), *long]
    answers = beside.ask_all(questions, tiny.policy())
    first = next(answers)
    answers.close()
    assert first.policy.completion_tokens == 4
    assert wide.sessions == {}
    assert len(beside._known) == 1


def test_one_that_fails_ends_the_others(tiny, wide, beside):
    questions = [*asked(tiny, 3000), Question(tuple(tiny.prompt(4090)), tiny.sampling(24), len)]
    with pytest.raises(PromptTooLongError):
        list(beside.ask_all(questions[::-1], tiny.policy()))
    assert wide.sessions == {}
