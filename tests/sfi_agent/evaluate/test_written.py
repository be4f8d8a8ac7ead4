"""Answers that the model writes by itself under a policy, against dense attention."""

from __future__ import annotations

import pytest

from sfi_agent.errors import PromptError, UnknownNameError
from sfi_agent.evaluate.answers import answer
from sfi_agent.evaluate.workloads import WORKLOADS, workload


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_covering_budget_gives_the_answer_of_dense_attention(tiny, beside, name):
    found = answer(beside, name, tiny.policy(budget=1.0), context=300, tokens=20)
    assert (found.tokens, found.divergence, found.equal_tokens, found.same) == (20, None, 1.0, True)
    assert found.kv_read_fraction == 1.0


def test_an_answer_that_parts_is_counted_token_by_token(tiny, wide, beside):
    policy = tiny.policy(budget=4, boundaries=(), max_interval=1000)
    found = answer(beside, "prose", policy, context=300, tokens=40, seed=1)
    prompt = workload("prose", wide, 300, seed=1)
    ours, dense = (tiny.sampling(40), tiny.sampling(40))
    ours = wide.generate(prompt, policy=policy, sampling=ours).token_ids
    dense = wide.generate(prompt, policy=policy.but(mode="dense"), sampling=dense).token_ids
    equal = [a == b for a, b in zip(ours, dense, strict=True)]
    assert not found.same
    assert found.divergence == equal.index(False)
    assert found.equal_tokens == sum(equal) / 40
    assert found.kv_read_fraction < 0.3


def test_what_cannot_be_written(tiny, beside):
    with pytest.raises(UnknownNameError, match="unknown workload"):
        answer(beside, "poetry", tiny.policy(), context=10, tokens=10)
    with pytest.raises(PromptError, match="window is 4096"):
        answer(beside, "prose", tiny.policy(), context=4090, tokens=10)
