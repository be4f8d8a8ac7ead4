"""A policy and dense attention on the same prompt: the same as each alone, and dense once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sfi_agent.errors import PromptTooLongError
from sfi_agent.evaluate.beside import Pair


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
