"""Policies by name, from the registry to every place that takes one."""

import pytest

from sfi_agent import Policy, Registry
from sfi_agent.errors import UnknownNameError
from sfi_agent.hookspecs import hookimpl


@pytest.fixture(scope="module")
def registry():
    return Registry()


def test_exact_is_verified_and_the_others_are_not(registry):
    modes = {name: registry.policy(name).mode for name in ("fast", "balanced", "exact")}
    assert modes == {"fast": "sfi", "balanced": "sfi", "exact": "verified"}


def test_an_unknown_policy_lists_the_known(registry):
    with pytest.raises(UnknownNameError, match="balanced, exact, fast"):
        registry.policy("balancd")


def test_a_plugin_offers_its_own():
    class Mine:
        name = "mine"

        @hookimpl
        def sfi_register_policies(self, register):
            register("thrifty", lambda: Policy.of(budget=64))

    assert Registry(extra=[Mine()]).policy("thrifty").budget == 64


def test_what_no_longer_applies_goes_with_the_name():
    policy = Policy.of(
        selector="index",
        selector_settings={"bits": 2},
        boundaries=("drift",),
        boundary_settings={"drift": {"excess": 1.0}},
    )
    assert policy.but(budget=64).selector_settings == {"bits": 2}
    assert policy.but(selector="index").selector_settings == {"bits": 2}
    assert policy.but(selector="snapkv").selector_settings == {}
    assert policy.but(selector="index", selector_settings={"bits": 1}).selector_settings == {"bits": 1}
    assert policy.but(boundaries=("newline",)).boundary_settings == {}
    assert policy.but(boundaries=("newline", "drift")).boundary_settings == {"drift": {"excess": 1.0}}
