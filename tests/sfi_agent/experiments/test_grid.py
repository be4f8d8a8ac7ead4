"""From families and grids to policies."""

from __future__ import annotations

import pytest

from sfi_agent import Policy, Registry
from sfi_agent.errors import SettingError
from sfi_agent.experiments.grid import cases
from sfi_agent.experiments.page import Page

REGISTRY = Registry()


def found(**declared):
    page = Page(question="?", workloads=("prose",), context=9, decode=9, **declared)
    return {case.label: case for case in cases(page, REGISTRY)}


def test_every_combination_in_order():
    policies = {"a": {"selector": "paper"}, "b": None}
    made = found(policies=policies, grid={"budget": [0.1, 0.2], "repair": [True, False]}, base={"sink": 3})
    assert list(made)[:5] == [
        "a budget=0.1 repair=true",
        "a budget=0.1 repair=false",
        "a budget=0.2 repair=true",
        "a budget=0.2 repair=false",
        "b budget=0.1 repair=true",
    ]
    assert made["a budget=0.2 repair=false"].policy == Policy.of(
        selector="paper", budget=0.2, repair=False, sink=3
    )
    assert {case.family for case in made.values()} == {"a", "b"}


def test_a_family_has_settings_and_a_grid_of_its_own():
    policies = {
        "a": {"sink": 5, "grid": {"max_interval": [8, 9]}},
        "b": {"grid": {"budget": [7]}},
    }
    made = found(policies=policies, base={"sink": 3}, grid={"budget": [5]})
    assert list(made) == ["a budget=5 max_interval=8", "a budget=5 max_interval=9", "b budget=7"]
    assert [case.policy.sink for case in made.values()] == [5, 5, 3]


def test_nested_settings_are_reached_with_a_point():
    policies = {"a": {"selector": "snapkv", "selector_settings": {"captured": 8, "kernel": 3}}}
    made = found(policies=policies, grid={"selector_settings.captured": [4, 16]})
    assert list(made) == ["a captured=4", "a captured=16"]
    assert made["a captured=16"].policy.selector_settings == {"captured": 16, "kernel": 3}
    deep = found(grid={"boundary_settings.interval.every": [4]}, base={"boundaries": ["interval"]})
    assert [case.policy.boundary_settings for case in deep.values()] == [{"interval": {"every": 4}}]


def test_without_policies_the_grids_first_setting_names_the_families():
    made = found(grid={"boundaries": [["newline"], ["newline", "punctuation"], []], "budget": [5, 6]})
    assert [case.family for case in made.values()][::2] == ["newline", "newline+punctuation", "none"]
    assert list(made)[:2] == ["newline budget=5", "newline budget=6"]
    assert made["none budget=5"].policy.boundaries == ()


def test_a_page_of_defaults():
    assert {label: case.policy for label, case in found().items()} == {"default": Policy()}
    assert found(base={"sink": 1})["default"].policy.sink == 1


def test_a_policy_may_be_named():
    policies = {"mild": "balanced", "milder": {"policy": "balanced", "budget": 0.75}}
    balanced = REGISTRY.policy("balanced")
    made = found(policies=policies)
    assert made["mild"].policy == balanced
    assert made["milder"].policy == balanced.but(budget=0.75)
    assert found(policies=policies, base={"sink": 9})["mild"].policy == balanced.but(sink=9)


def test_a_temperature_stands_among_the_settings():
    policies = {"greedy": {}, "warm": {"temperature": 0.7}, "both": {"grid": {"temperature": [0.0, 1.0]}}}
    made = found(policies=policies)
    assert [case.temperature for case in made.values()] == [0.0, 0.7, 0.0, 1.0]
    assert list(made)[2:] == ["both temperature=0.0", "both temperature=1.0"]
    assert all(case.policy == Policy() for case in made.values())


@pytest.mark.parametrize(
    ("declared", "told"),
    [
        ({"policies": {"a": {"temperature": -1}}}, "policy 'a': temperature: Input should be greater"),
        ({"policies": {"a": {"budgets": 3}}}, "policy 'a': unknown setting 'budgets'"),
        ({"policies": {"a": {}}, "grid": {"budget": [0.5, 7.5]}}, "policy 'a budget=7.5': budget"),
        ({"policies": {"a": {"grid": [1]}}}, "policy 'a': grid must map settings to lists"),
        ({"policies": {"a": {"grid": {"sink": 3}}}}, "policy 'a': grid must map settings to lists"),
        ({"policies": {"a": {}}, "grid": {"sink.x": [3]}}, "selector_settings.NAME"),
        ({"policies": {"a": {}}, "grid": {"sink": [3, 3]}}, "two policies are labelled 'a sink=3'"),
        (
            {"policies": {"a": "no-such-policy"}},
            "policy 'a': unknown policy 'no-such-policy'; known: balanced",
        ),
    ],
)
def test_what_makes_no_policy(declared, told):
    with pytest.raises(SettingError) as error:
        found(**declared)
    assert told in str(error.value)
