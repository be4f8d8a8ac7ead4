"""Two sessions where one was: both go on as it would have, and neither knows of the other."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import pytest
import torch

from sfi_agent import Limits, Registry, Runtime
from sfi_agent.contracts import PAGE, Selector, top_positions
from sfi_agent.errors import (
    PluginError,
    PromptError,
    SessionExistsError,
    SettingError,
    TurnTimeoutError,
)
from sfi_agent.hookspecs import hookimpl
from sfi_agent.runtime.sizes import tensor_bytes

MODES = ("dense", "sfi", "verified")


class Talk:
    """A conversation of turns whose new tokens are drawn from a seed."""

    def __init__(self, tiny, runtime, policy, session, history=()):
        self.tiny, self.runtime, self.policy, self.session = tiny, runtime, policy, session
        self.history = list(history)

    def turn(self, seed, length=20):
        """What the turn gave, all of it that does not depend on the clock, or on what others have read."""
        prompt = [*self.history, *self.tiny.prompt(length, seed=seed)]
        told = self.runtime.generate(
            prompt, policy=self.policy, sampling=self.tiny.sampling(12), session=self.session
        )
        self.read = len(prompt) - told.reused_tokens
        self.history = [*prompt, *told.token_ids]
        return told.token_ids, told.slow_steps, told.fast_steps, told.kv_read_fraction

    def forked(self, session):
        self.runtime.fork(self.session, session)
        return Talk(self.tiny, self.runtime, self.policy, session, self.history)


def go_on(tiny, opened, mode, selector):
    policy = tiny.policy(mode, selector=selector, adaptive_draft=False, kernel="torch")
    alone = Talk(tiny, opened(), policy, "a")
    expected = [alone.turn(0, 90), alone.turn(1, 9), alone.turn(2, 9)]
    origin = Talk(tiny, opened(), policy, "a")
    assert [origin.turn(0, 90), origin.turn(1, 9)] == expected[:2]
    twin = origin.forked("b")
    assert twin.turn(2, 9) == expected[2]
    assert origin.turn(2, 9)[:3] == expected[2][:3]  # its twin has read, and coded, part of it


def test_both_go_on_as_the_original_would(tiny, opened, each_selector):
    go_on(tiny, opened, "sfi", each_selector)


@pytest.mark.parametrize("mode", ["dense", "verified"])
@pytest.mark.parametrize("selector", ["h2o", "index"])
def test_both_go_on_as_the_original_would_in_other_modes(tiny, opened, mode, selector):
    go_on(tiny, opened, mode, selector)


@pytest.mark.parametrize("mode", MODES)
def test_neither_sees_what_the_other_reads_later(tiny, opened, mode):
    policy = tiny.policy(mode, selector="h2o", adaptive_draft=False, kernel="torch")
    expected = {}
    for seeds in ((5, 7), (6, 8)):
        alone = Talk(tiny, opened(), policy, "a")
        alone.turn(0, 150)
        expected[seeds] = [alone.turn(seed) for seed in seeds]
    origin = Talk(tiny, opened(), policy, "a")
    origin.turn(0, 150)
    twin = origin.forked("b")
    found = {(5, 7): [], (6, 8): []}
    for turn in range(2):
        found[5, 7].append(origin.turn((5, 7)[turn]))
        found[6, 8].append(twin.turn((6, 8)[turn]))
    assert found == expected


@pytest.mark.parametrize("ended", ["a", "b"])
def test_ending_one_leaves_the_other_whole(tiny, opened, ended):
    runtime, policy = opened(), tiny.policy("sfi", selector="h2o", kernel="torch")
    free = runtime.pool.free if runtime.pool else 0
    talk = Talk(tiny, runtime, policy, "a")
    talk.turn(0, 150)
    talks = {"a": talk, "b": talk.forked("b")}
    alone = talk.forked("c")
    runtime.drop_session(ended)
    Talk(tiny, runtime, policy, "other").turn(9, 150)  # takes what became free
    (left,) = talks.keys() - {ended}
    assert talks[left].turn(1) == alone.turn(1)
    for name in list(runtime.sessions):
        runtime.drop_session(name)
    assert (runtime.pool.free if runtime.pool else 0) == free


def test_what_is_full_is_held_by_both_and_written_by_none(tiny, shared):
    with Runtime.load(shared.model, tokenizer=shared.tokenizer, kv_bytes=2**23) as runtime:
        talk = Talk(tiny, runtime, tiny.policy("dense", kernel="torch"), "a")
        talk.turn(0, 3 * PAGE + 10)
        free = runtime.pool.free
        twin = talk.forked("b")
        assert runtime.pool.free == free, "a fork takes no page"
        talk.turn(1, 5)
        twin.turn(2, 5)
        a, b = (runtime.sessions[name].row.kv for name in "ab")
        assert a.held[:3] == b.held[:3]
        assert set(a.held[3:]).isdisjoint(b.held[3:])
        assert free - runtime.pool.free == 1, "of the page that was not full, one has a copy"


def test_caches_of_their_own_are_copies(tiny, runtime):
    talk = Talk(tiny, runtime, tiny.policy("sfi", selector="index", kernel="torch"), "a")
    talk.turn(0, 150)
    talk.forked("b")
    a, b = runtime.sessions["a"], runtime.sessions["b"]
    both = tensor_bytes([a.row, b.row, a.kept, b.kept])
    assert both == tensor_bytes([a.row, a.kept]) + tensor_bytes([b.row, b.kept]), "no storage is in both"
    assert b.row.kv.length == a.row.kv.length
    b.notes["of"] = "b"
    assert a.notes == {}


@pytest.mark.parametrize("where", ["in memory", "on disk"])
def test_a_fork_is_stored_and_the_origin_may_have_left(tiny, opened, tmp_path, where):
    policy = tiny.policy("sfi", selector="h2o", kernel="torch")
    runtime = opened(store=tmp_path)
    origin = Talk(tiny, runtime, policy, "a")
    origin.turn(0, 150)
    if where == "on disk":
        runtime.drop_session("a")
    twin = origin.forked("b")
    runtime.flush()
    assert {info.id: info.turns for info in runtime.store.list()} == {"a": 1, "b": 1}
    for name in "ab":
        runtime.drop_session(name)
    assert twin.turn(1) == origin.turn(1)


def test_limits_hold_for_forks_too(tiny, opened, tmp_path):
    size = 1_000_000
    runtime = opened(store=tmp_path, limits=Limits(bytes=size))
    policy = tiny.policy("dense", kernel="torch")
    talk = Talk(tiny, runtime, policy, "s0")
    talk.turn(0, 100)
    expected = Talk(tiny, opened(), policy, "a", talk.history).turn(1)
    talks = [talk]
    for number in range(1, 14):
        talks.append(talk.forked(f"s{number}"))
        assert runtime.stats().device.bytes <= size
    assert runtime.stats().evicted.count > 0
    for each in talks:
        assert each.turn(1)[0] == expected[0]
        assert each.read <= 21, "of the history only the last token"
        assert runtime.stats().device.bytes <= size


def test_what_cannot_be_forked_says_so(tiny, runtime, tmp_path):
    with pytest.raises(SettingError, match="no session 'a'; run a turn"):
        runtime.fork("a", "b")
    assert list(runtime.sessions) == []
    talk = Talk(tiny, runtime, tiny.policy("dense"), "a")
    talk.turn(0)
    for taken in ("a", talk.forked("b").session):
        with pytest.raises(SessionExistsError, match=f"'{taken}' is in memory already; choose another id"):
            runtime.fork("a", taken)
    stored = Runtime.load(runtime.model, tokenizer=runtime.tokenizer, store=tmp_path)
    with stored:
        for name in ("a", "b"):
            Talk(tiny, stored, tiny.policy("dense"), name).turn(0)
        stored.flush()
        stored.drop_session("b")
        with pytest.raises(SessionExistsError, match="'b' is stored already"):
            stored.fork("a", "b")
        assert list(stored.sessions) == ["a"]
        with pytest.raises(SettingError, match="no session 'c'"):
            stored.fork("c", "d")
        assert {info.id for info in stored.store.list()} == {"a", "b"}


def test_two_that_cannot_fit_together_are_refused(tiny, shared):
    limits = Limits(bytes=750_000)
    with Runtime.load(shared.model, tokenizer=shared.tokenizer, limits=limits) as runtime:
        talk = Talk(tiny, runtime, tiny.policy("sfi"), "a")
        expected = talk.turn(0, 60)
        with pytest.raises(PromptError, match="'a' and a copy of it") as said:
            runtime.fork("a", "b")
        assert "\n" not in str(said.value)
        assert list(runtime.sessions) == ["a"]
        again = Talk(tiny, runtime, talk.policy, "a").turn(0, 60)
        assert again[0] == expected[0]


def test_a_fork_waits_for_the_turn_no_longer_than_it_may(tiny, runtime):
    ready, done = threading.Event(), threading.Event()

    def read():
        with runtime.stream(
            tiny.prompt(20), policy=tiny.policy("dense"), sampling=tiny.sampling(5), session="a"
        ) as stream:
            next(stream)
            ready.set()
            done.wait(30)

    thread = threading.Thread(target=read)
    thread.start()
    ready.wait(30)
    with pytest.raises(TurnTimeoutError, match="earlier turn of session 'a'"):
        runtime.fork("a", "b", timeout=0.01)
    done.set()
    thread.join()
    runtime.fork("a", "b")
    assert sorted(runtime.sessions) == ["a", "b"]


@dataclass
class Guarded(Selector):
    """Keeps what cannot be copied."""

    lock: object = field(default_factory=threading.Lock, init=False)

    def refresh(self, evidence, view):
        return top_positions(evidence.mass(), view.count, view.start)


class Plugin:
    name = "guarded"

    @hookimpl
    def sfi_register_selectors(self, register):
        register("guarded", Guarded)


def test_a_selector_that_cannot_be_copied_refuses_the_fork(tiny):
    with tiny.runtime(registry=Registry([Plugin()])) as runtime:
        talk = Talk(tiny, runtime, tiny.policy("sfi", selector="guarded"), "a")
        talk.turn(0, 60)
        with pytest.raises(PluginError, match=r"Guarded keeps what cannot be copied.*state and restore"):
            runtime.fork("a", "b")
        assert list(runtime.sessions) == ["a"]
        assert torch.is_inference_mode_enabled() is False
