"""A session that is stopped after any turn and read from disk goes on token for token."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from sfi_agent import Registry, Runtime, events
from sfi_agent.contracts import Selector, top_positions
from sfi_agent.hookspecs import hookimpl
from sfi_agent.registry import default_registry
from sfi_agent.runtime.session import KeptSelector
from sfi_agent.store import SessionStore

MODES = ("dense", "sfi", "verified")
ROOT = Path(__file__).parents[3]


def open_runtime(tiny, folder, family="llama", plugins=()) -> Runtime:
    registry = Registry(plugins) if plugins else default_registry()
    return Runtime.load(tiny.model(family), tokenizer=tiny.tokenizer, store=folder, registry=registry)


class Script:
    """A conversation of several turns, played with or without a stop after each of them.

    Args:
        policies: of the turns.
        rewritten: turns before which the history's last tokens are replaced, as a template may do.
    """

    def __init__(self, tiny, policies, rewritten=(), tokens=14):
        self.tiny, self.policies, self.rewritten, self.tokens = tiny, policies, rewritten, tokens

    def prompt(self, turn: int, history: list[int]) -> list[int]:
        if turn in self.rewritten:
            history = history[: -9 - turn]
        return [*history, *self.tiny.prompt(45 if turn == 0 else 2 * turn - 1, seed=turn)]

    def turn(self, runtime: Runtime, turn: int, history: list[int], session="a"):
        prompt = self.prompt(turn, history)
        result = runtime.generate(
            prompt, policy=self.policies[turn], sampling=self.tiny.sampling(self.tokens), session=session
        )
        return result, [*prompt, *result.token_ids]

    def uninterrupted(self, runtime: Runtime, session="a") -> list[Any]:
        results, history = [], []
        for turn in range(len(self.policies)):
            result, history = self.turn(runtime, turn, history, session)
            results.append(result)
        return results

    def stopped(self, folder, opened) -> list[Any]:
        results, history = [], []
        for turn in range(len(self.policies)):
            with opened(folder) as runtime:
                result, history = self.turn(runtime, turn, history)
            results.append(result)
        return results


def same(stopped, uninterrupted) -> None:
    for turn, (got, expected) in enumerate(zip(stopped, uninterrupted, strict=True)):
        assert got.token_ids == expected.token_ids, f"turn {turn}"
        assert got.reused_tokens == expected.reused_tokens, f"turn {turn}"
        assert (got.slow_steps, got.kv_read_fraction) == (expected.slow_steps, expected.kv_read_fraction)


@pytest.mark.parametrize("mode", MODES)
def test_every_selector_in_every_mode(tiny, tmp_path, each_selector, mode):
    """The third turn's template has rewritten the end of the history."""
    policy = tiny.policy(mode, selector=each_selector, adaptive_draft=False, repair=True)
    script = Script(tiny, [policy] * 4, rewritten=(2,))
    with open_runtime(tiny, None) as runtime:
        expected = script.uninterrupted(runtime)
    same(script.stopped(tmp_path, lambda folder: open_runtime(tiny, folder)), expected)


@pytest.mark.parametrize("selector", ["h2o", "index", "shared"])
def test_modes_that_change_between_turns(tiny, tmp_path, selector):
    modes = ["sfi", "verified", "dense", "sfi", "sfi", "verified"]
    policies = [tiny.policy(mode, selector=selector, adaptive_draft=False) for mode in modes]
    script = Script(tiny, policies, rewritten=(3,))
    with open_runtime(tiny, None) as runtime:
        expected = script.uninterrupted(runtime)
    same(script.stopped(tmp_path, lambda folder: open_runtime(tiny, folder)), expected)


@pytest.mark.parametrize(
    "settings",
    [
        {"selector": "index", "selector_settings": {"bits": 4, "candidates": 0.5}},
        {"selector": "shared", "selector_settings": {"stride": 3}},
        {"selector": "h2o", "selector_settings": {"decay": 1.0}, "kernel": "torch"},
        {"selector": "index", "max_interval": 3, "repair": True},
    ],
)
def test_settings_that_matter_to_what_is_kept(tiny, tmp_path, settings):
    script = Script(tiny, [tiny.policy("sfi", **settings)] * 3, rewritten=(2,), tokens=25)
    with open_runtime(tiny, None) as runtime:
        expected = script.uninterrupted(runtime)
    same(script.stopped(tmp_path, lambda folder: open_runtime(tiny, folder)), expected)


def test_every_family(tiny, tmp_path, each_family):
    """Windows, soft caps, sinks, latent attention: what a layer is belongs to the model, not the file."""
    script = Script(tiny, [tiny.policy("sfi", selector="index")] * 3)
    with open_runtime(tiny, None, each_family) as runtime:
        expected = script.uninterrupted(runtime)
    same(script.stopped(tmp_path, lambda folder: open_runtime(tiny, folder, each_family)), expected)


def test_bfloat16(tiny, tmp_path):
    def opened(folder):
        return Runtime.load(tiny.model(), tokenizer=tiny.tokenizer, dtype="bfloat16", store=folder)

    script = Script(tiny, [tiny.policy("sfi", selector="index")] * 3)
    with opened(None) as runtime:
        expected = script.uninterrupted(runtime)
    same(script.stopped(tmp_path, opened), expected)


def test_a_new_process(tiny, tmp_path):
    """From this process to a new one and back, nothing but the folder passes."""
    script = Script(tiny, [tiny.policy("sfi", selector="h2o")] * 3)
    with open_runtime(tiny, None) as runtime:
        expected = script.uninterrupted(runtime)
    with open_runtime(tiny, tmp_path) as runtime:
        first, history = script.turn(runtime, 0, [])
    command = [sys.executable, "-m", "tests.sfi_agent.store.one_turn", str(tmp_path), "1"]
    done = subprocess.run(
        command, cwd=ROOT, input=json.dumps(history), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    with open_runtime(tiny, tmp_path) as runtime:
        third, _ = script.turn(runtime, 2, told["history"])
    got = [(first.token_ids, first.reused_tokens), (tuple(told["tokens"]), told["reused"])]
    got.append((third.token_ids, third.reused_tokens))
    assert got == [(result.token_ids, result.reused_tokens) for result in expected]


def test_a_cancelled_turn_is_stored_too(tiny, tmp_path):
    prompt, policy = tiny.prompt(50), tiny.policy("verified", adaptive_draft=False)
    with open_runtime(tiny, tmp_path) as runtime:
        whole = tiny.run(runtime, prompt, "dense", 14).token_ids
        with runtime.stream(prompt, policy=policy, sampling=tiny.sampling(14), session="a") as stream:
            taken = [token for _, chunk in zip(range(5), stream, strict=False) for token in chunk.token_ids]
        taken = list(stream.result.token_ids)
    with open_runtime(tiny, tmp_path) as runtime:
        rest = runtime.generate(
            [*prompt, *taken], policy=policy, sampling=tiny.sampling(14 - len(taken)), session="a"
        )
    assert (*taken, *rest.token_ids) == whole
    assert rest.reused_tokens == 50 + len(taken) - 1


@dataclass
class Hoarder(Selector):
    """Keeps what no file can hold, and chooses by it."""

    evidence_rows: ClassVar[int] = 2
    seen: Any = field(default=None, init=False)

    def refresh(self, evidence, view):
        calls = self.seen() + 1 if self.seen else 0
        self.seen = lambda: calls
        return top_positions(evidence.probabilities.mean(-2) * (-1) ** calls, view.count, view.start)


@dataclass
class Thrifty(Hoarder):
    """Says itself how to store it."""

    def state(self):
        return {"calls": self.seen() if self.seen else None}

    def restore(self, state):
        if (calls := state["calls"]) is not None:
            self.seen = lambda: calls


class ThirdParty:
    name = "third-party"

    @hookimpl
    def sfi_register_selectors(self, register):
        register("hoarder", Hoarder)
        register("thrifty", Thrifty)


def test_a_selector_that_cannot_be_stored_says_so(tiny, tmp_path, listening):
    plugins = [ThirdParty(), listening]
    script = Script(tiny, [tiny.policy("sfi", selector="hoarder")] * 2)
    script.stopped(tmp_path, lambda folder: open_runtime(tiny, folder, plugins=plugins))
    (loaded,) = listening.of(events.SessionLoaded)
    assert "selector 'hoarder'" in loaded.lost
    assert "function" in loaded.lost
    (info,) = SessionStore(tmp_path).list()
    assert "hoarder" in info.lost


def test_even_then_verified_equals_dense(tiny, tmp_path):
    plugins = [ThirdParty()]
    script = Script(tiny, [tiny.policy("verified", selector="hoarder", adaptive_draft=False)] * 3)
    with open_runtime(tiny, None) as runtime:
        dense = Script(tiny, [tiny.policy("dense")] * 3).uninterrupted(runtime)
    stopped = script.stopped(tmp_path, lambda folder: open_runtime(tiny, folder, plugins=plugins))
    assert [result.token_ids for result in stopped] == [result.token_ids for result in dense]


def test_a_selector_that_stores_itself(tiny, tmp_path):
    plugins = [ThirdParty()]
    script = Script(tiny, [tiny.policy("sfi", selector="thrifty")] * 3)
    with open_runtime(tiny, None, plugins=plugins) as runtime:
        expected = script.uninterrupted(runtime)
    same(script.stopped(tmp_path, lambda folder: open_runtime(tiny, folder, plugins=plugins)), expected)


def test_a_plugin_that_is_gone_is_named(tiny, tmp_path, listening):
    with open_runtime(tiny, tmp_path, plugins=[ThirdParty()]) as runtime:
        Script(tiny, [tiny.policy("sfi", selector="thrifty")]).uninterrupted(runtime)
    with open_runtime(tiny, tmp_path, plugins=[listening]) as runtime:
        runtime.generate(tiny.prompt(45), policy=tiny.policy(), sampling=tiny.sampling(3), session="a")
    (loaded,) = listening.of(events.SessionLoaded)
    assert "unknown selector 'thrifty'" in loaded.lost


def test_a_tuple_among_the_settings_is_still_the_same_selector(tiny):
    """JSON has no tuples; the session must not take the policy's selector for another."""
    policy = tiny.policy("sfi", selector="x", selector_settings={"spans": (1, 2)})
    assert KeptSelector("x", {"spans": [1, 2]}, None).serves(policy)
    assert not KeptSelector("x", {"spans": [1, 3]}, None).serves(policy)


def test_queued_turns_share_the_selector_of_a_new_session(tiny):
    """Two turns made before either ran: the second goes on with the first one's selector."""
    policy, sampling = tiny.policy("sfi", selector="h2o"), tiny.sampling(10)
    with open_runtime(tiny, None) as runtime:
        first = runtime.generate(tiny.prompt(50), policy=policy, sampling=sampling, session="a")
        follow = [*tiny.prompt(50), *first.token_ids, *tiny.prompt(9, seed=4)]
        expected = runtime.generate(follow, policy=policy, sampling=sampling, session="a")
        streams = [
            runtime.stream(prompt, policy=policy, sampling=sampling, session="b")
            for prompt in (tiny.prompt(50), follow)
        ]
        got = [tuple(token for chunk in stream for token in chunk.token_ids) for stream in streams]
    assert got == [first.token_ids, expected.token_ids]


def test_tensors_come_back_bit_for_bit(tiny, tmp_path):
    policy = tiny.policy("sfi", selector="index")
    with open_runtime(tiny, tmp_path) as runtime:
        runtime.generate(tiny.prompt(70), policy=policy, sampling=tiny.sampling(20), session="a")
        runtime.flush()
        before = runtime.sessions["a"].row
    with open_runtime(tiny, tmp_path) as runtime, runtime.sessions.held("a", None) as session:
        after = session.row
    for layer, store in before.kv.layers.items():
        assert torch.equal(
            store.keys[:, : before.kv.length], after.kv.layers[layer].keys[:, : before.kv.length]
        )
        assert torch.equal(
            store.values[:, : before.kv.length], after.kv.layers[layer].values[:, : before.kv.length]
        )
        length = before.indexes[layer].length
        assert torch.equal(before.indexes[layer]._codes[:, :length], after.indexes[layer]._codes)
        assert torch.equal(before.indexes[layer]._mean, after.indexes[layer]._mean)
    assert (before.kv.length, before.kv.exact) == (after.kv.length, after.kv.exact)
    assert before.queries.latest(89, 32) == after.queries.latest(89, 32) != []
