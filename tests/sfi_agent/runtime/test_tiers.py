"""Sessions go from the device to the host to disk and come back, as if they had never left.

The CPU's memory, as a device, is taken to be apart from the host's, so the same moves are made: on a GPU
keys and values are in pages, whose sizes are others. Those are moved from a GPU where there is one.
"""

from __future__ import annotations

import pytest
import torch

from sfi_agent import Limits, Registry, Runtime
from sfi_agent.events import (
    DraftVerified,
    MemoryRefreshed,
    SessionEvicted,
    SessionLoaded,
    SessionMoved,
    SessionSaved,
    SlowStep,
)
from sfi_agent.hookspecs import hookimpl
from sfi_agent.runtime import tiers
from sfi_agent.runtime.sizes import parked_bytes, tensor_bytes
from sfi_agent.runtime.stats import Moves

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Watch:
    """Keeps the events of moves, and the most that sessions took on the device and on the host."""

    name = "watch"

    def __init__(self):
        self.events, self.device, self.host, self.runtime = [], 0, 0, None

    @hookimpl
    def sfi_on_event(self, event):
        if isinstance(event, SessionMoved | SessionEvicted | SessionSaved | SessionLoaded):
            self.events.append(event)
        if self.runtime and not isinstance(event, SlowStep | MemoryRefreshed | DraftVerified):
            stats = self.runtime.stats()
            self.device = max(self.device, stats.device.bytes)
            self.host = max(self.host, stats.host.bytes)

    def of(self, kind, **facts):
        found = [event for event in self.events if isinstance(event, kind)]
        return [e for e in found if all(getattr(e, name) == value for name, value in facts.items())]


@pytest.fixture
def opened(tiny, monkeypatch):
    """``opened(limits, **options)``: a runtime with a host beside its device, and the watch on its events."""
    monkeypatch.setattr(tiers, "has_host", lambda device: True)
    made = []

    def open_(limits=None, device="cpu", **options):
        watch, registry = Watch(), Registry()
        registry.add(watch)
        runtime = Runtime.load(
            tiny.model(), tokenizer=tiny.tokenizer, device=device, registry=registry, limits=limits, **options
        )
        watch.runtime = runtime
        made.append(runtime)
        return runtime, watch

    yield open_
    for runtime in made:
        runtime.close()


@pytest.fixture
def row(tiny, opened):
    """Of a session of about 120 tokens."""
    runtime, _ = opened()
    ask(tiny, runtime, "one", tiny.prompt(120))
    return runtime.sessions["one"].row


@pytest.fixture
def size(row):
    """Bytes of such a session on the device."""
    return tensor_bytes(row)


@pytest.fixture
def parked(row):
    """The same on the host."""
    return parked_bytes(row)


def ask(tiny, runtime, session, prompt, mode="verified", **settings):
    policy = tiny.policy(mode, adaptive_draft=False, **settings)
    return runtime.generate(prompt, policy=policy, sampling=tiny.sampling(6), session=session)


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize(("mode", "selector"), [("verified", "paper"), ("sfi", "index"), ("sfi", "paper")])
def test_sessions_go_on_from_wherever_they_went(tiny, opened, size, parked, tmp_path, stored, mode, selector):
    """Seven sessions, four turns each, where the device holds two and the host three."""
    where = {"store": tmp_path / "kept"} if stored else {}
    runtime, watch = opened(Limits(bytes=3 * size, host_bytes=3 * parked), **where)
    alone, _ = opened()
    histories = {f"s{number}": [3 + number, *tiny.prompt(60)] for number in range(7)}
    for turn in range(2):
        # Each comes back soon, from the host, and late, from disk.
        for session in [f"s{(number - back) % 7}" for number in range(7) for back in (0, 2)]:
            history = histories[session]
            got = ask(tiny, runtime, session, history, mode, selector=selector)
            if stored or mode == "verified":
                expected = ask(tiny, alone, session, history, mode, selector=selector)
                assert got.token_ids == expected.token_ids
                assert not stored or got.reused_tokens == expected.reused_tokens
            histories[session] = [*history, *got.token_ids, 7 + turn, 9]
    assert watch.of(SessionMoved, to="host")
    assert watch.of(SessionMoved, to="device")
    assert watch.of(SessionEvicted, stored=stored)
    assert bool(watch.of(SessionLoaded)) is stored
    assert 0 < watch.device <= 3 * size
    assert 0 < watch.host <= 3 * parked
    told = runtime.stats()
    for name, events in [
        ("to_host", watch.of(SessionMoved, to="host")),
        ("to_device", watch.of(SessionMoved, to="device")),
        ("evicted", watch.of(SessionEvicted)),
    ]:
        seconds = sum(event.seconds for event in events)
        expected = Moves(len(events), sum(event.bytes for event in events), pytest.approx(seconds))
        assert getattr(told, name) == expected
    assert min(event.bytes for event in watch.of(SessionMoved)) > 0


def test_pages_are_free_while_their_session_is_parked(tiny, opened, parked):
    limits, kept = Limits(sessions=9, bytes=10**9, host_bytes=4 * parked), tiny.prompt(120)
    runtime, watch = opened(limits, DEVICE, kv_bytes=2**22)
    plain, _ = opened(None, DEVICE)
    free = runtime.pool.free
    first = ask(tiny, runtime, "a", kept)
    held, used = runtime.sessions["a"].row.kv.nbytes, free - runtime.pool.free
    assert held == used * runtime.pool.page_bytes > 0
    assert held < runtime.stats().device.bytes < held + 2**20, "its own pages, and not the pool"
    assert runtime.sessions._tiers.park(runtime.sessions["a"])
    assert runtime.pool.free == free
    asked = [*kept, *first.token_ids, 9]
    again = ask(tiny, runtime, "a", asked)
    assert again.reused_tokens > 120
    ask(tiny, plain, "a", kept)
    assert again.token_ids == ask(tiny, plain, "a", asked).token_ids
    assert [event.to for event in watch.of(SessionMoved)] == ["host", "device"]
    assert runtime.pool.free < free
    runtime.drop_session("a")
    assert runtime.pool.free == free


def test_the_least_recently_used_goes_first_at_every_step(tiny, opened, size, parked):
    runtime, watch = opened(Limits(bytes=3 * size, host_bytes=int(1.5 * parked)))
    for session in ("a", "b", "a", "c", "d"):
        ask(tiny, runtime, session, tiny.prompt(120))
    assert [event.session for event in watch.of(SessionMoved, to="host")] == ["b", "a"]
    assert [event.session for event in watch.of(SessionEvicted)] == ["b"]
    assert (runtime.stats().device.sessions, runtime.stats().host.sessions) == (2, 1)
    assert ask(tiny, runtime, "a", [*tiny.prompt(120), 9]).reused_tokens > 100, "it was not what made room"
    assert [event.session for event in watch.of(SessionMoved, to="device")] == ["a"]
    assert [event.session for event in watch.of(SessionEvicted)] == ["b", "c"]


def test_a_host_that_is_too_small_is_passed_over(tiny, opened, size):
    runtime, watch = opened(Limits(bytes=2 * size, host_bytes=1000))
    for session in ("a", "b"):
        ask(tiny, runtime, session, tiny.prompt(120))
    assert not watch.of(SessionMoved)
    assert [event.session for event in watch.of(SessionEvicted)] == ["a"]


def test_a_parked_session_can_be_saved_and_noted(tiny, opened, size, tmp_path):
    """Saving does not store it empty, and reading its notes does not bring it back."""
    limits = Limits(bytes=2 * size, host_bytes=4 * size)
    runtime, _ = opened(limits, store=tmp_path / "kept")
    for session in ("a", "b"):
        first = ask(tiny, runtime, session, tiny.prompt(120))
    assert runtime.sessions["a"].parked
    runtime.set_notes("a", {"kept": "words"})
    assert runtime.sessions["a"].parked
    runtime.save("a")
    runtime.close()
    again, _ = opened(store=tmp_path / "kept")
    assert again.notes("a") == {"kept": "words"}
    assert ask(tiny, again, "a", [*tiny.prompt(120), *first.token_ids, 9]).reused_tokens > 120


def test_what_the_disk_lacks_stays_on_the_device(tiny, opened, size, tmp_path, monkeypatch):
    from sfi_agent.store.stored import StoredSession

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(StoredSession, "save", full)
    limits = Limits(bytes=2 * size, host_bytes=4 * size)
    runtime, watch = opened(limits, store=tmp_path / "kept")
    ask(tiny, runtime, "a", tiny.prompt(120))
    assert not runtime.sessions._tiers.park(runtime.sessions["a"])
    assert not watch.of(SessionMoved)
    assert runtime.sessions["a"].row.kv.length > 120
    monkeypatch.undo()


@pytest.mark.parametrize("move", ["evict", "park"])
def test_one_dropped_while_it_cannot_be_stored_is_let_go(tiny, opened, tmp_path, monkeypatch, move):
    """Whoever had it leave holds it then, and nobody else would: its id would be busy for good."""
    from sfi_agent.store.stored import StoredSession

    def dropped(*arguments):
        runtime.drop_session("a")
        raise OSError(28, "No space left on device")

    runtime, _ = opened(store=tmp_path / "kept")
    first = ask(tiny, runtime, "a", tiny.prompt(120))
    runtime.flush()
    runtime.set_notes("a", {"kept": "words"})
    with monkeypatch.context() as patched:
        patched.setattr(StoredSession, "save", dropped)
        assert not getattr(runtime.sessions._tiers, move)(runtime.sessions["a"])
    assert "a" not in runtime.sessions
    assert ask(tiny, runtime, "a", [*tiny.prompt(120), *first.token_ids, 9]).reused_tokens > 120


def test_without_a_gpu_there_is_no_host_beside_the_device():
    assert not tiers.has_host(torch.device("cpu"))
    assert tiers.has_host(torch.device("cuda"))
