"""The suite: everything asked for and nothing else, equal to dense attention where it must be."""

from __future__ import annotations

import dataclasses
import json

import pytest

from sfi_agent.errors import PromptError, SettingError, UnknownNameError
from sfi_agent.evaluate.retrieval import TASKS
from sfi_agent.evaluate.suite import MEASURES, Sizes, Suite, known_tasks
from sfi_agent.evaluate.workloads import WORKLOADS

SIZES = Sizes(context=2100, decode=10, answer=10, lengths=(900,), samples=1)


def test_all_of_it_under_a_covering_budget_is_dense(tiny, wide):
    steps = []
    found = Suite(wide, SIZES).run(tiny.policy(budget=1.0), lambda *step: steps.append(step))
    assert len(steps) == steps[0][2] == 3 * len(WORKLOADS) + len(TASKS) + 1
    assert [done for _, done, _ in steps] == list(range(len(steps)))
    assert list(found.fidelity) == list(found.answers) == list(found.drafts) == list(WORKLOADS)
    assert {of.agree for of in found.fidelity.values()} == {1.0}
    assert all(of.same for of in found.answers.values())
    assert all(of.equal for of in found.drafts.values())
    assert [(of.task, of.length, of.samples) for of in found.retrieval] == [(name, 900, 1) for name in TASKS]
    assert all(of.policy == of.dense and of.kv_read_fraction == 1 for of in found.retrieval)
    assert found.tool_calls.policy == found.tool_calls.dense


def test_a_small_budget_shows(tiny, wide):
    found = Suite(wide, SIZES, ["fidelity", "answers"]).run(tiny.policy(budget=8))
    assert all(of.agree < 1 for of in found.fidelity.values())
    assert not any(of.same for of in found.answers.values())


def test_what_is_not_asked_for_is_not_measured(tiny, wide):
    found = Suite(wide, SIZES, ["drafts", "multi_key"]).run(tiny.policy())
    assert (found.fidelity, found.answers, found.tool_calls) == ({}, {}, None)
    assert list(found.drafts) == list(WORKLOADS)
    assert [of.task for of in found.retrieval] == ["multi_key"]


def test_the_result_says_what_ran_and_is_plain_json(tiny, wide):
    policy = tiny.policy(budget=0.25)
    found = Suite(wide, SIZES, ["fidelity"], seed=3).run(policy)
    plain = json.loads(json.dumps(dataclasses.asdict(found)))
    assert (plain["dtype"], plain["device"], plain["seed"]) == ("float32", "cpu", 3)
    assert (
        type(policy).of(**{**plain["policy"], "boundaries": tuple(plain["policy"]["boundaries"])}) == policy
    )
    assert plain["sizes"] == {**dataclasses.asdict(SIZES), "lengths": [900]}
    assert plain["fidelity"]["code"]["decode_tokens"] == 10
    assert plain["seconds"] > 0


def test_fast_steps_are_measured_where_a_turn_would_stay_dense(tiny, wide):
    sizes = SIZES.but(context=100)
    found, same = (
        Suite(wide, sizes, ["fidelity"]).run(tiny.policy(budget=8, dense_below=below)) for below in (4000, 0)
    )
    assert found.fidelity == same.fidelity
    assert all(of.kv_read_fraction < 0.9 for of in found.fidelity.values())


def test_seeds_give_other_texts(tiny, wide):
    one, other = (Suite(wide, SIZES, ["fidelity"], seed=s).run(tiny.policy()) for s in (0, 1))
    assert one.fidelity != other.fidelity


def test_a_second_policy_costs_no_dense_answers(tiny, wide, monkeypatch):
    """Counted by the prompts that the model reads under ``dense``."""
    modes = []
    stream = type(wide).stream
    monkeypatch.setattr(
        type(wide),
        "stream",
        lambda self, prompt, **options: (
            modes.append(options["policy"].mode),
            stream(self, prompt, **options),
        )[1],
    )
    suite = Suite(wide, SIZES, ["answers", "drafts", "multi_key"])
    suite.run(tiny.policy())
    prompts = len(WORKLOADS) + 1
    assert modes.count("dense") == prompts  # answers and drafts continue the same prompts
    suite.run(tiny.policy(budget=40))
    assert modes.count("dense") == prompts


def test_names_of_tasks():
    assert known_tasks(["tool_calls", "fidelity"]) == ("fidelity", "tool_calls")
    assert known_tasks(["retrieval"]) == tuple(TASKS)
    assert known_tasks(MEASURES) == MEASURES
    with pytest.raises(UnknownNameError, match=r"unknown task 'fidelty'.*Did you mean 'fidelity'"):
        known_tasks(["fidelty"])


@pytest.mark.parametrize("window", [512, 2048, 8192, 40_960])
def test_the_presets_fit_any_window(window):
    for preset in (Sizes.quick(window), Sizes.standard(window)):
        preset.check(window)
        assert preset.context > 0.7 * min(window, 1024)
    assert Sizes.standard(8192).lengths == (1024, 2048, 4096, 8192)


def test_sizes_that_cannot_be_run(shared):
    with pytest.raises(PromptError, match="the suite would read 2110 tokens, but the model's window is 512"):
        Suite(shared, SIZES)
    with pytest.raises(PromptError, match="would read 900"):
        Suite(shared, SIZES.but(context=100))
    with pytest.raises(SettingError, match="each must be at least 1"):
        Suite(shared, Sizes.quick(512).but(samples=0))
