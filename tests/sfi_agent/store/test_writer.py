"""A runtime with a store: written in the background, errors told and survived."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest

from sfi_agent import events
from sfi_agent.errors import SessionNotSavedError
from sfi_agent.store import SessionStore, writer
from sfi_agent.store.stored import StoredSession


class Gate:
    """Holds every save until it is opened."""

    def __init__(self, monkeypatch) -> None:
        self.open, self.saves = threading.Event(), []
        save = StoredSession.save

        def waiting(stored, snapshot, identity):
            self.saves.append((stored.id, snapshot.facts["turns"]))
            assert self.open.wait(30)
            return save(stored, snapshot, identity)

        monkeypatch.setattr(StoredSession, "save", waiting)


def test_the_next_turn_does_not_wait_for_the_disk(opened, turn, store, monkeypatch):
    """All of these turns end while the first save is still held up."""
    gate, runtime = Gate(monkeypatch), opened()
    turn(runtime)
    for session in ("b", "c"):
        turn(runtime, session=session)
    assert store.list() == []
    gate.open.set()
    runtime.flush()
    assert {info.id for info in store.list()} == {"a", "b", "c"}


def test_a_turn_of_the_session_being_written_ends_when_that_is_done(opened, turn, store, monkeypatch):
    """Its tokens come at once; only then does it wait, so that no two snapshots of it are about."""
    gate, runtime = Gate(monkeypatch), opened()
    turn(runtime)
    tokens, done = [], threading.Event()

    def second() -> None:
        for chunk in runtime.stream([*runtime.sessions["a"].tokens, 9], session="a"):
            tokens.extend(chunk.token_ids)
            if len(tokens) == 3:
                break
        done.set()

    thread = threading.Thread(target=second)
    thread.start()
    while len(tokens) < 3:
        thread.join(0.01)
    gate.open.set()
    thread.join(30)
    assert done.is_set()
    runtime.flush()
    assert store.inspect("a").turns == 2


def test_a_turn_of_a_session_that_is_dropped_waits_until_it_is_written(opened, turn, monkeypatch):
    """It goes on from there, and is not told that somebody else has the session."""
    gate, runtime = Gate(monkeypatch), opened()
    history, results = [*turn(runtime).token_ids], []
    tokens = list(runtime.sessions["a"].tokens)

    def again() -> None:
        results.append(turn(runtime, [*tokens, 9]))

    dropping = threading.Thread(target=runtime.drop_session, args=("a",), daemon=True)
    dropping.start()
    while runtime.sessions or runtime.sessions._keeper.sessions:
        dropping.join(0.01)
    asking = threading.Thread(target=again, daemon=True)
    asking.start()
    asking.join(0.5)
    assert (asking.is_alive(), results) == (True, [])
    gate.open.set()
    for thread in (dropping, asking):
        thread.join(30)
    assert results[0].reused_tokens > len(history)


def test_a_save_not_begun_gives_way_to_the_next(opened, turn, store, monkeypatch):
    gate, runtime = Gate(monkeypatch), opened()
    turn(runtime, session="busy")
    for extra in range(4):
        turn(runtime, [*(runtime.sessions["a"].tokens if extra else [7] * 30), 9], session="a")
    gate.open.set()
    runtime.flush()
    assert gate.saves == [("busy", 1), ("a", 4)]
    assert store.inspect("a").tokens == len(runtime.sessions["a"].tokens)


def test_what_waits_is_bounded(opened, turn, monkeypatch):
    monkeypatch.setattr(writer, "WAITING_BYTES", 1)
    gate, runtime = Gate(monkeypatch), opened()
    turn(runtime)
    thread = threading.Thread(target=turn, args=(runtime,), kwargs={"session": "b"})
    thread.start()
    thread.join(1)
    assert thread.is_alive(), "it did not wait for the disk"
    gate.open.set()
    thread.join(30)
    assert not thread.is_alive()


class TestAFullDisk:
    @pytest.fixture
    def full(self, store, monkeypatch):
        """``full(True)``: from now on the disk takes nothing."""
        save = StoredSession.save
        state = {"full": False}

        def maybe(stored, snapshot, identity):
            if state["full"]:
                raise SessionNotSavedError(f"session {stored.id!r} was not saved: No space left on device")
            return save(stored, snapshot, identity)

        monkeypatch.setattr(StoredSession, "save", maybe)
        return lambda full: state.update(full=full)

    def test_the_turn_is_right_and_flush_says_so(self, opened, turn, store, listening, full, caplog):
        runtime = opened()
        turn(runtime)
        runtime.flush()
        full(True)
        with caplog.at_level(logging.WARNING):
            assert len(turn(runtime, [*runtime.sessions["a"].tokens, 9]).token_ids) == 5
            with pytest.raises(SessionNotSavedError, match="No space"):
                runtime.flush()
        assert "No space" in caplog.text
        assert "No space" in listening.of(events.SessionNotSaved)[0].reason
        assert store.inspect("a").turns == 1
        full(False)
        runtime.flush()
        assert store.inspect("a").turns == 2, "the next flush makes up for it"

    def test_saving_on_demand_says_so(self, opened, turn, full):
        runtime = opened()
        turn(runtime)
        full(True)
        with pytest.raises(SessionNotSavedError):
            runtime.save("a")
        full(False)
        runtime.save("a")

    def test_closing_says_so_and_closes(self, tiny, opened, turn, store, full):
        runtime = opened()
        full(True)
        turn(runtime)
        with pytest.raises(SessionNotSavedError):
            runtime.close()
        assert runtime.model.config._attn_implementation != "sfi"
        full(False)
        assert turn(opened()).reused_tokens == 0, "the lock is free"


def test_a_process_that_ends_without_closing_still_saves(tmp_path):
    """What waits for the disk is written before Python ends."""
    code = (
        "import sys\n"
        "from tests.sfi_agent.conftest import Tiny\n"
        "from sfi_agent import Runtime\n"
        "tiny = Tiny()\n"
        "runtime = Runtime.load(tiny.model(), tokenizer=tiny.tokenizer, store=sys.argv[1])\n"
        "runtime.generate(tiny.prompt(40), policy=tiny.policy(), sampling=tiny.sampling(3), session='a')\n"
    )
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=root, check=True)
    assert SessionStore(tmp_path).inspect("a").turns == 1


def test_saves_that_gave_way_hold_no_snapshot(opened, turn, monkeypatch):
    gate, runtime = Gate(monkeypatch), opened()
    made, snapshot = [], StoredSession.snapshot

    def noted(stored, session):
        found = snapshot(stored, session)
        made.append(weakref.ref(found))
        return found

    monkeypatch.setattr(StoredSession, "snapshot", noted)
    turn(runtime, session="busy")
    for extra in range(4):
        turn(runtime, [*(runtime.sessions["a"].tokens if extra else [7] * 30), 9], session="a")
    gc.collect()
    assert [found() is not None for found in made] == [True, False, False, False, True]
    gate.open.set()
    runtime.flush()
