"""Turns cancelled from another thread: in prefill, in decoding, and while they wait."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from sfi_agent.errors import PromptError, SFIError
from sfi_agent.events import Event, TurnStarted
from sfi_agent.hookspecs import hookimpl

MODES = ("dense", "sfi", "verified")
CHUNK, PROMPT = 16, 200


class Gate:
    """A progress callback that stands still at its n-th call until it is opened."""

    def __init__(self, at: int = 1) -> None:
        self.seen: list[int] = []
        self.at, self.reached, self.opened = at, threading.Event(), threading.Event()

    def __call__(self, done: int, total: int) -> None:
        self.seen.append(done)
        if len(self.seen) == self.at:
            self.reached.set()
            assert self.opened.wait(30)


def reading(stream) -> tuple[threading.Thread, list]:
    """A thread that reads the stream, and what it got."""
    got: list = []
    thread = threading.Thread(target=lambda: got.extend(stream), daemon=True)
    thread.start()
    return thread, got


def start(tiny, runtime, mode: str, gate: Callable[[int, int], None] | None, session: str | None = "a"):
    policy = tiny.policy(mode, prefill_chunk=CHUNK)
    return runtime.stream(
        tiny.prompt(PROMPT), policy=policy, sampling=tiny.sampling(8), session=session, on_progress=gate
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("chunks", [1, 4])
@pytest.mark.parametrize("how", ["close", "cancel"])
def test_a_prefill_stops_at_the_next_chunk_and_the_session_goes_on(tiny, runtime, mode, chunks, how):
    gate = Gate(chunks)
    stream = start(tiny, runtime, mode, gate)
    thread, got = reading(stream)
    assert gate.reached.wait(30)
    getattr(stream, how)()
    gate.opened.set()
    thread.join(30)
    assert (gate.seen[-1], got) == (chunks * CHUNK, [])
    assert (stream.result.finish_reason, stream.result.completion_tokens) == ("cancelled", 0)
    whole = start(tiny, runtime, mode, None)
    list(whole)
    assert whole.result.reused_tokens == chunks * CHUNK
    alone = start(tiny, runtime, mode, None, session=None)
    list(alone)
    assert whole.result.token_ids == alone.result.token_ids


def test_a_turn_stepped_by_another_thread_stops_too(tiny, runtime):
    """Whoever steps ends the cancelled turn, and its own comes out right."""
    expected = tiny.run(runtime, tiny.prompt(40, seed=1), "dense", 30).token_ids
    gate = Gate()
    policy = tiny.policy("dense", prefill_chunk=CHUNK)
    stepper = runtime.stream(
        tiny.prompt(40, seed=1), policy=policy, sampling=tiny.sampling(30), on_progress=gate
    )
    thread, _ = reading(stepper)
    assert gate.reached.wait(30)  # the other thread is inside a step from here on
    waiting = start(tiny, runtime, "dense", None)
    second, got = reading(waiting)
    while len(runtime._batcher._jobs) < 2:
        assert second.is_alive()
    waiting.cancel()
    gate.opened.set()
    thread.join(30)
    second.join(30)
    assert got == []
    assert waiting.result.finish_reason == "cancelled"
    assert runtime.sessions["a"].row.kv.length == 0
    assert stepper.result.token_ids == expected


def test_a_turn_cancelled_while_it_waits_for_its_session_changes_nothing(tiny, runtime):
    gate = Gate()
    first = start(tiny, runtime, "dense", gate)
    thread, _ = reading(first)
    assert gate.reached.wait(30)
    second = start(tiny, runtime, "dense", None)
    waiting, got = reading(second)
    second.cancel()
    gate.opened.set()
    for each in (thread, waiting):
        each.join(30)
    assert got == []
    assert runtime.sessions["a"].turns == 1
    with pytest.raises(PromptError, match="has not begun"):
        _ = second.result


def test_closing_from_a_callback_of_its_own(tiny, runtime):
    streams: list = []
    stream = start(tiny, runtime, "dense", lambda done, total: streams[0].close())
    streams.append(stream)
    assert list(stream) == []
    assert runtime.sessions["a"].row.kv.length == CHUNK


def test_who_wants_it_paused_waits_for_one_step_alone(tiny, runtime):
    """A turn begins between two steps of another, however fast these follow one another."""
    tokens = 400
    stream = runtime.stream(tiny.prompt(20), policy=tiny.policy("dense"), sampling=tiny.sampling(tokens))
    began, got = threading.Event(), []

    def read() -> None:
        for chunk in stream:
            got.append(chunk)
            began.set()

    thread = threading.Thread(target=read)
    thread.start()
    assert began.wait(30)
    with runtime.exclusive():
        seen = len(got)
    thread.join(60)
    assert seen < tokens / 2 < len(got)


@pytest.mark.parametrize("mode", MODES)
def test_a_closed_stream_gives_no_more_chunks(tiny, runtime, mode):
    stream = start(tiny, runtime, mode, None)
    next(stream)
    stream.close()
    stream.close()
    assert list(stream) == []
    assert stream.result.finish_reason == "cancelled"


class Inside:
    """An observer that does something as a turn begins, in its caller's thread, and keeps what was raised."""

    def __init__(self, act: Callable[[], object]) -> None:
        self.act, self.raised = act, list[Exception]()

    @hookimpl
    def sfi_on_event(self, event: Event) -> None:
        if isinstance(event, TurnStarted):
            try:
                self.act()
            except SFIError as error:
                self.raised.append(error)


@pytest.mark.parametrize("how", ["close the runtime", "read on"])
def test_a_callback_that_would_wait_for_its_own_turn_is_refused(tiny, runtime, how):
    stream = start(tiny, runtime, "dense", None)
    observer = Inside(runtime.close if how == "close the runtime" else lambda: next(stream))
    with runtime.observers.heard_by(observer):
        thread, got = reading(stream)
        thread.join(30)
        assert not thread.is_alive(), "it waits for itself"
    (error,) = observer.raised
    assert "callback" in str(error)
    assert sum(len(chunk.token_ids) for chunk in got) == stream.result.completion_tokens > 0
