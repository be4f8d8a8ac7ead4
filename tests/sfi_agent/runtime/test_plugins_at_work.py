"""What only a whole turn shows of plugins: policies run, detectors see logits, indexes follow the context."""

from __future__ import annotations

import pytest

from sfi_agent import Registry
from sfi_agent.events import MemoryRefreshed
from sfi_agent.hookspecs import hookimpl


def test_every_policy_can_be_made_and_run(tiny):
    registry = Registry()
    with tiny.runtime() as runtime:
        dense = tiny.run(runtime, tiny.prompt(60), "dense", 12).token_ids
        for name in registry.entries("policy"):
            policy = registry.policy(name).but(dense_below=0)
            result = runtime.generate(tiny.prompt(60), policy=policy, sampling=tiny.sampling(12))
            assert len(result.token_ids) == 12
            assert policy.mode != "verified" or result.token_ids == dense


def test_a_turn_shows_it_the_logits(tiny):
    """With no other boundary, and an excess that any rise exceeds, slow steps come from drift alone."""
    with tiny.runtime() as runtime:
        slow = {
            excess: tiny.run(
                runtime, tiny.prompt(60), "sfi", 40, boundaries=("drift",), max_interval=1000, min_gap=0,
                boundary_settings={"drift": {"excess": excess}},
            ).slow_steps
            for excess in (0.0, 50.0)
        }  # fmt: skip
    assert slow[50.0] == 0 < 5 < slow[0.0]


@pytest.mark.parametrize("selector", ["index", "quest", "top_p", "shared"])
def test_a_session_that_re_ranks_goes_on_as_if_never_cut(tiny, selector):
    """A second turn that rewrites the end of the first cuts KV and index back, then grows both."""
    settings = {"selector": selector, "budget": 30, "recent": 8, "max_interval": 9, "mode": "sfi"}
    first, second = tiny.prompt(90), [*tiny.prompt(90)[:70], *tiny.prompt(40, seed=1)]
    with tiny.runtime() as runtime:
        policy, sampling = tiny.policy(**settings), tiny.sampling(20)
        runtime.generate(first, policy=policy, sampling=sampling, session="cut")
        again = runtime.generate(second, policy=policy, sampling=sampling, session="cut")
        row = runtime.sessions["cut"].row
        assert 0 < again.reused_tokens <= 70
        assert row.indexes
        assert all(0 < index.length < row.kv.length for index in row.indexes.values())
        # The mean of the first turn's keys stays with the index, so compare what does not depend on it.
        fresh = runtime.generate(second, policy=policy, sampling=sampling, session="fresh")
        assert len(fresh.token_ids) == len(again.token_ids) == 20
        assert again.kv_read_fraction == pytest.approx(fresh.kv_read_fraction, abs=0.05)


def test_another_selector_begins_with_an_index_of_its_own(tiny):
    with tiny.runtime() as runtime:
        for selector in ("index", "quest", "snapkv"):
            policy = tiny.policy("sfi", selector=selector, budget=30)
            runtime.generate(tiny.prompt(90), policy=policy, sampling=tiny.sampling(8), session="one")
            kinds = {type(index).__name__ for index in runtime.sessions["one"].row.indexes.values()}
            assert kinds == {"index": {"RotatedIndex"}, "quest": {"PageBounds"}, "snapkv": set()}[selector]


def test_index_bytes_are_counted(tiny):
    """Two sessions that read the same positions differ by the bytes of the index."""
    runs = {}
    with tiny.runtime() as runtime:
        for bits in (1, 2, 4):
            policy = tiny.policy(
                "sfi", selector="index", selector_settings={"bits": bits, "jointly": False}, budget=30,
                boundaries=(), max_interval=1000,
            )  # fmt: skip
            runs[bits] = runtime.generate(tiny.prompt(90), policy=policy, sampling=tiny.sampling(20))
    read = {bits: result.kv_read_fraction for bits, result in runs.items()}
    # Keys of 16 float32 elements: bits / 8 * 16 bytes of code and 2 of scale beside 128 of KV a position.
    per_bit = 2 / 128
    assert read[2] - read[1] == pytest.approx(per_bit * 0.8, rel=0.2)
    assert read[4] - read[2] == pytest.approx(2 * (read[2] - read[1]), rel=1e-6)


class Hears:
    """Where memory was chosen anew; who wants details has boundaries looked for at each token."""

    def __init__(self, wants_details):
        self.wants_details, self.lengths = wants_details, []

    @hookimpl
    def sfi_on_event(self, event):
        if isinstance(event, MemoryRefreshed):
            self.lengths.append(event.length)


def test_boundaries_that_are_looked_for_where_a_draft_begins_are_those_of_each_token(tiny):
    heard = []
    for details in (False, True):
        with tiny.runtime() as runtime:
            runtime.observers.add(hears := Hears(details))
            tiny.run(runtime, tiny.prompt(60), "verified", 60, adaptive_draft=False, max_draft=3)
        heard.append(hears.lengths)
    assert heard[0] == heard[1]
    assert len(heard[0]) > 3
