"""Observers hear the runtime that they are given to, and cannot hurt a turn."""

from __future__ import annotations

import logging
import threading

import pytest

from sfi_agent import events
from sfi_agent.details import Detail
from sfi_agent.errors import PluginError, UnknownNameError
from sfi_agent.hookspecs import hookimpl
from sfi_agent.observers import FAILURES, Observers
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


class Away(Recorder):
    """Hears nothing while what it tells is away."""

    away = True

    @hookimpl
    def sfi_on_event(self, event):
        if self.away:
            raise ConnectionError("metrics are\naway")
        super().sfi_on_event(event)


def step(turn=1):
    return events.Event(session="s", turn=turn)


def test_an_observer_that_always_raises_is_silenced_and_named(tiny, caplog):
    fragile, recorder = Fragile(), Recorder()
    found = Registry([fragile, recorder])
    with tiny.runtime(registry=found) as runtime:
        result = tiny.run(runtime, tiny.prompt(40), "sfi", 40)
    assert result.completion_tokens == 40
    assert fragile.calls == FAILURES < len(recorder.events)
    assert isinstance(recorder.events[-1], events.TurnFinished)
    *each, last = [record.getMessage() for record in caplog.records]
    assert each[0] == "plugin 'fragile' failed on RuntimeStarted: ZeroDivisionError: bang"
    assert len(each) == FAILURES
    (problem,) = found.problems
    assert last == f"plugin 'fragile' {problem.reason}"
    assert (problem.plugin, "10 in a row, the last with ZeroDivisionError: bang" in problem.reason) == (
        "fragile",
        True,
    )
    with pytest.raises(UnknownNameError) as error:
        found.create("selector", "fragile")
    assert "Plugin 'fragile'" not in str(error.value)  # its names, if it had some, could be used


def test_an_observer_that_fails_for_a_while_hears_again():
    observers, away = Observers(), Away()
    observers.add(away)
    for _ in range(3):
        away.away = True
        for _ in range(FAILURES - 1):
            observers.emit(step())
        away.away = False
        observers.emit(step())
    assert away.events == [step()] * 3
    assert observers.problems == []


def test_an_observer_that_is_silenced_begins_anew_where_it_is_given_anew():
    observers, away = Observers(), Away()
    away.wants_details = True
    with observers.heard_by(away):
        assert observers.wants_details
        for _ in range(FAILURES):
            observers.emit(step())
        assert not observers.wants_details
        away.away = False
        observers.emit(step())
        (problem,) = observers.problems
        assert "ConnectionError: metrics are away" in problem.reason
    assert (away.events, observers.problems) == ([], [])
    with observers.heard_by(away):
        observers.emit(step())
    assert away.events == [step()]


@pytest.mark.parametrize("observer", [Recorder, Fragile])
def test_an_observer_may_hear_for_a_while(observer):
    observers, for_a_while, event = Observers(), observer(), step()
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


def test_two_threads_silence_one_observer_once(caplog):
    meeting = threading.Barrier(2, timeout=20)

    class Both:
        name = "both"

        @hookimpl
        def sfi_on_event(self, event):
            if event.turn:
                meeting.wait()
            raise ZeroDivisionError

    observers = Observers()
    observers.add(Both())
    for _ in range(FAILURES - 1):
        observers.emit(step(0))
    threads = [threading.Thread(target=observers.emit, args=[step()]) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [problem.plugin for problem in observers.problems] == ["both"]
    assert [record.levelno for record in caplog.records].count(logging.ERROR) == 1


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
