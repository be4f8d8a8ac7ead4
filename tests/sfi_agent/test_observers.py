"""Observers hear the runtime that they are given to, and cannot hurt a turn."""

from __future__ import annotations

import logging
import threading

import pytest

from sfi_agent import events
from sfi_agent.details import Detail
from sfi_agent.errors import PluginError
from sfi_agent.hookspecs import hookimpl
from sfi_agent.observers import Observers
from sfi_agent.registry import Registry


class Recorder:
    name = "recorder"

    def __init__(self) -> None:
        self.events: list[events.Event] = []

    @hookimpl
    def sfi_on_event(self, event):
        self.events.append(event)


class Typo:
    @hookimpl
    def sfi_on_events(self, event):
        raise NotImplementedError


class Fragile:
    name = "fragile"
    calls = 0

    @hookimpl
    def sfi_on_event(self, event):
        self.calls += 1
        raise ZeroDivisionError("bang")


def test_an_observer_that_raises_is_muted_and_named(tiny, caplog):
    fragile, recorder = Fragile(), Recorder()
    with tiny.runtime(registry=Registry([fragile, recorder])) as runtime, caplog.at_level(logging.ERROR):
        result = tiny.run(runtime, tiny.prompt(40), "sfi", 10)
    assert result.completion_tokens == 10
    assert fragile.calls == 1
    assert isinstance(recorder.events[-1], events.TurnFinished)
    assert ["'fragile' failed on RuntimeStarted" in record.getMessage() for record in caplog.records] == [
        True
    ]


@pytest.mark.parametrize("observer", [Recorder, Fragile])
def test_an_observer_may_hear_for_a_while(observer):
    observers, for_a_while, event = Observers(), observer(), events.Event(session="s", turn=1)
    with observers.heard_by(for_a_while):
        observers.emit(event)
    observers.emit(event)
    assert getattr(for_a_while, "events", [event]) == [event]
    assert getattr(for_a_while, "calls", 1) == 1
    with observers.heard_by(for_a_while):
        pass


def test_an_observer_of_a_runtime_hears_no_other(tiny):
    plugin, first, second = Recorder(), Recorder(), Recorder()
    shared = Registry([plugin])
    with tiny.runtime(registry=shared) as one, tiny.runtime(registry=shared) as other:
        one.observers.add(first)
        with other.observers.heard_by(second):  # one name is not in another's way
            for runtime, tokens in ((one, 2), (other, 3), (other, 4)):
                tiny.run(runtime, tiny.prompt(10), "dense", tokens)

    def answered(recorder):
        return [each.completion_tokens for each in recorder.events if isinstance(each, events.TurnFinished)]

    assert (answered(first), answered(second), answered(plugin)) == ([2], [3, 4], [2, 3, 4])


def test_details_are_made_where_an_observer_of_the_runtime_wants_them(tiny):
    class Detailed(Recorder):
        wants_details = True

    detailed, plain = Detailed(), Recorder()
    shared = Registry([plain])
    with tiny.runtime(registry=shared) as one, tiny.runtime(registry=shared) as other:
        one.observers.add(detailed)
        assert (one.observers.wants_details, other.observers.wants_details) == (True, False)
        tiny.run(one, tiny.prompt(10), "dense", 2)
    assert any(isinstance(each, Detail) for each in detailed.events)
    assert not any(isinstance(each, Detail) for each in plain.events)


@pytest.mark.parametrize(
    ("observer", "why"),
    [(Recorder(), "this name already"), (object(), "has no hook"), (Typo(), "unknown hook")],
)
def test_an_observer_that_cannot_hear_is_refused(observer, why):
    observers = Observers()
    observers.add(Recorder())
    with pytest.raises(PluginError, match=f"^plugin '.+': .*{why}"):
        observers.add(observer)


def test_two_threads_may_mute_one_observer(caplog):
    meeting = threading.Barrier(2, timeout=20)

    class Both:
        name = "both"

        @hookimpl
        def sfi_on_event(self, event):
            meeting.wait()
            raise ZeroDivisionError

    observers, done = Observers(), []
    observers.add(Both())

    def emit() -> None:
        observers.emit(events.Event(session="s", turn=1))
        done.append(True)

    threads = [threading.Thread(target=emit) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [True, True]


@pytest.mark.parametrize("mode", ["dense", "sfi", "verified"])
def test_events_tell_what_the_result_counts(tiny, mode):
    recorder = Recorder()
    with tiny.runtime(registry=Registry([recorder])) as runtime:
        policy, sampling = tiny.policy(mode, adaptive_draft=False), tiny.sampling(20)
        result = runtime.generate(tiny.prompt(70), policy=policy, sampling=sampling, session="s")
        policy = runtime.policy.model_dump(mode="json")
    started, *told = recorder.events
    assert started == events.RuntimeStarted(model=runtime.name, policy=policy, window=runtime.window)
    assert {(event.session, event.turn) for event in told} == {("s", 1)}

    def of(kind):
        return [event for event in told if type(event) is kind]

    assert told[0] == events.TurnStarted(session="s", turn=1, mode=mode, prompt_tokens=70, reused_tokens=0)
    assert [(event.done, event.total) for event in told[1:4]] == [(32, 70), (64, 70), (70, 70)]
    assert told[-1] == events.TurnFinished(
        session="s", turn=1, reason="length", completion_tokens=20,
        slow_steps=result.slow_steps, fast_steps=result.fast_steps,
    )  # fmt: skip
    assert len(of(events.SlowStep)) == result.slow_steps
    assert sum(event.drafted for event in of(events.DraftVerified)) == result.drafted
    assert sum(event.accepted for event in of(events.DraftVerified)) == result.accepted
    refreshed = of(events.MemoryRefreshed)
    assert [event.positions for event in refreshed] == [24] * len(refreshed)
    assert bool(refreshed) == (mode != "dense")
    if mode == "sfi":
        assert len(refreshed) == 1 + result.slow_steps, "after the prefill, and after each slow step"
        assert [event.tokens for event in of(events.SlowStep)] == [1] * result.slow_steps, (
            "nothing is repaired"
        )
    if mode == "verified":
        assert sum(event.tokens for event in of(events.SlowStep)) == result.drafted + result.slow_steps
