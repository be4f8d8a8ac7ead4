"""A runtime with a store: sessions are read on demand, kept from others, and refused where they must be."""

from __future__ import annotations

import threading

import pytest

from sfi_agent import Runtime, events
from sfi_agent.errors import (
    SessionBusyError,
    SessionCorruptError,
    SessionMismatchError,
    SettingError,
    SFIError,
    TurnTimeoutError,
)
from sfi_agent.hookspecs import hookimpl
from sfi_agent.registry import default_registry
from sfi_agent.runtime.limits import Limits
from sfi_agent.store import SessionStore
from sfi_agent.store.naming import folder_name
from sfi_agent.store.stored import StoredSession


def test_saved_after_each_turn(opened, turn, store, listening):
    runtime = opened()
    turn(runtime)
    runtime.flush()
    assert store.inspect("a").turns == 1
    turn(runtime, [*runtime.sessions["a"].tokens, 9])
    runtime.flush()
    info = store.inspect("a")
    assert (info.turns, info.tokens) == (2, len(runtime.sessions["a"].tokens))
    saved = listening.of(events.SessionSaved)
    assert [event.turn for event in saved] == [1, 2]
    assert saved[1].stored == info.bytes
    assert 0 < saved[1].written < info.bytes


def test_without_a_session_nothing_is_stored(opened, turn, store):
    runtime = opened()
    turn(runtime, session=None)
    runtime.flush()
    assert store.list() == []


def test_read_on_demand(opened, turn, store, listening):
    runtime = opened()
    turn(runtime)
    runtime.close()
    again = opened()
    assert again.sessions == {}
    assert turn(again).reused_tokens == 39
    (loaded,) = listening.of(events.SessionLoaded)
    assert (loaded.session, loaded.turn, loaded.tokens, loaded.lost) == ("a", 1, 45, "")


def test_many_threads_ask_for_a_stored_session(opened, turn, listening):
    runtime = opened()
    turn(runtime)
    runtime.close()
    again, results = opened(), []
    threads = [threading.Thread(target=lambda: results.append(turn(again))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.reused_tokens for result in results] == [39] * 8
    assert len(listening.of(events.SessionLoaded)) == 1


class TestTwoRuntimes:
    def test_the_second_is_told_until_the_first_lets_go(self, opened, turn):
        first, second = opened(), opened()
        turn(first)
        with pytest.raises(SessionBusyError, match="open in another process"):
            turn(second)
        assert turn(second, session="other").reused_tokens == 0
        first.drop_session("a")
        assert turn(second).reused_tokens == 39

    def test_dropped_during_a_turn(self, opened, tiny, turn):
        first, second = opened(), opened()
        stream = first.stream(tiny.prompt(40), session="a", sampling=tiny.sampling(5))
        next(stream)
        first.drop_session("a")
        with pytest.raises(SessionBusyError):
            turn(second)
        list(stream)
        assert turn(second).reused_tokens == 39

    def test_closing_lets_go(self, opened, turn):
        first, second = opened(), opened()
        turn(first)
        first.close()
        assert turn(second).reused_tokens == 39


class TestRefusals:
    def test_a_foreign_model_and_another_dtype(self, tiny, opened, turn, store):
        runtime = opened()
        turn(runtime)
        runtime.close()
        with pytest.raises(SessionMismatchError, match="another weights"):
            turn(opened(seed=5))
        with pytest.raises(SessionMismatchError, match="another weights"):
            turn(opened(rope_parameters={"rope_type": "default", "rope_theta": 5e5}))
        narrow = Runtime.load(tiny.model(), tokenizer=tiny.tokenizer, dtype="bfloat16", store=store)
        with narrow, pytest.raises(SessionMismatchError, match="another dtype"):
            turn(narrow)
        assert turn(opened()).reused_tokens == 39, "and it is still there for the right one"

    def test_a_damaged_session_fails_its_own_turns_only(self, opened, turn, store):
        runtime = opened()
        turn(runtime)
        turn(runtime, session="b")
        runtime.close()
        path = next((store.folder / folder_name("a")).glob("kv-*"))
        path.write_bytes(path.read_bytes()[:-1])
        again = opened()
        for _ in range(2):
            with pytest.raises(SessionCorruptError, match="session 'a' is damaged"):
                turn(again)
        assert turn(again, session="b").reused_tokens == 39
        store.delete("a")
        assert turn(again).reused_tokens == 0, "deleted, it begins anew"

    def test_save_needs_a_store_and_a_session(self, tiny, opened, runtime):
        with pytest.raises(SettingError, match="store="):
            runtime.save("a")
        with pytest.raises(SettingError, match="no session 'a'"):
            opened().save("a")
        runtime.flush()


def test_saving_waits_for_the_turn(tiny, opened, store):
    runtime = opened()
    stream = runtime.stream(tiny.prompt(20), policy=tiny.policy(), sampling=tiny.sampling(5), session="a")
    next(stream)
    with pytest.raises(TurnTimeoutError):
        runtime.save("a", timeout=0.01)
    runtime.flush()
    assert store.list() == [], "a turn in progress is not half stored"
    list(stream)
    runtime.save("a")
    assert store.inspect("a").turns == 1


def test_a_failing_turn_is_stored_as_far_as_it_came(tiny, opened, store):
    def on_progress(done: int, total: int) -> None:
        if done >= 64:
            raise ZeroDivisionError

    runtime = opened()
    with pytest.raises(ZeroDivisionError):
        runtime.generate(tiny.prompt(100), policy=tiny.policy("dense"), session="a", on_progress=on_progress)
    runtime.close()
    again = opened()
    result = again.generate(
        tiny.prompt(100), policy=tiny.policy("dense"), sampling=tiny.sampling(3), session="a"
    )
    assert result.reused_tokens == 64


def test_the_default_registry_serves_a_store(tiny, tmp_path):
    store = SessionStore(tmp_path)
    with Runtime.load(
        tiny.model(), tokenizer=tiny.tokenizer, store=store, registry=default_registry()
    ) as runtime:
        assert runtime.store is store


@pytest.mark.parametrize("begin", ["a turn", "a save"])
def test_a_session_dropped_while_it_is_written_can_be_opened_again(opened, turn, tiny, monkeypatch, begin):
    """Whoever holds it then lets it go: its id would be locked for good."""
    runtime, snapshot = opened(), StoredSession.snapshot
    first = turn(runtime)
    runtime.flush()

    def dropped(stored, session):
        thread = threading.Thread(target=runtime.drop_session, args=(session.id,))
        thread.start()
        thread.join(30)
        return snapshot(stored, session)

    with monkeypatch.context() as patched:
        patched.setattr(StoredSession, "snapshot", dropped)
        if begin == "a turn":
            turn(runtime, [*tiny.prompt(40), *first.token_ids, 7])
        else:
            runtime.save("a")
    assert "a" not in runtime.sessions
    assert turn(runtime, [*tiny.prompt(40), *first.token_ids, 9]).reused_tokens > 40
    runtime.drop_session("a")
    runtime.store.delete("a")


def test_a_session_dropped_during_a_turn_is_busy_until_that_ends(opened, turn, tiny):
    runtime = opened()
    with runtime.stream(
        tiny.prompt(40), policy=tiny.policy("dense"), sampling=tiny.sampling(20), session="a"
    ) as stream:
        next(stream)
        runtime.drop_session("a")
        with pytest.raises(SessionBusyError, match="was dropped during a turn of it"):
            turn(runtime)
    assert turn(runtime).reused_tokens == 39


def test_a_session_that_cannot_be_opened_leaves_nothing(opened, turn, store):
    runtime = opened()
    turn(runtime)
    with store.open("busy"), pytest.raises(SessionBusyError):
        turn(runtime, session="busy")
    assert "busy" not in runtime.sessions
    runtime.fork("a", "busy")
    assert runtime.sessions["busy"].turns == 1


def test_notes_changed_after_a_turn_are_stored(opened, turn):
    runtime = opened()
    turn(runtime)
    runtime.flush()
    runtime.set_notes("a", {"said": "hello"})
    runtime.close()
    assert opened().notes("a") == {"said": "hello"}


def test_notes_are_a_copy(opened, turn):
    runtime = opened()
    runtime.set_notes("a", given := {"said": ["hello"]})
    given["said"].append("more")
    runtime.notes("a")["said"].append("more")
    assert runtime.notes("a") == {"said": ["hello"]}
    runtime.close()
    assert opened().notes("a") == {"said": ["hello"]}


def test_looking_for_notes_stores_nothing(opened, turn, store):
    runtime = opened()
    assert runtime.notes("mistyped") == {}
    assert "mistyped" not in runtime.sessions
    opened().set_notes("mistyped", {})  # nobody has it open
    runtime.flush()
    assert store.list() == []


def test_a_fork_dropped_while_it_is_written_can_be_opened_again(opened, turn, monkeypatch):
    runtime, snapshot = opened(), StoredSession.snapshot
    turn(runtime)

    def dropped(stored, session):
        runtime.drop_session(session.id)
        return snapshot(stored, session)

    with monkeypatch.context() as patched:
        patched.setattr(StoredSession, "snapshot", dropped)
        runtime.fork("a", "b")
    assert "b" not in runtime.sessions
    assert turn(runtime, session="b").reused_tokens == 39


@pytest.mark.parametrize("notes", [{"much": float("inf")}, {"much": {1}}, [1], "words"], ids=str)
def test_notes_that_are_no_json_are_refused(opened, turn, notes):
    runtime = opened()
    turn(runtime)
    runtime.set_notes("a", {"kept": 1})
    with pytest.raises(SettingError, match="notes: must be a mapping that JSON can hold"):
        runtime.set_notes("a", notes)
    assert runtime.notes("a") == {"kept": 1}


def test_one_that_has_left_memory_is_saved(tiny, turn, tmp_path):
    limits = Limits(sessions=1)
    with Runtime.load(tiny.model(), tokenizer=tiny.tokenizer, store=tmp_path / "s", limits=limits) as runtime:
        turn(runtime)
        turn(runtime, session="b")
        assert "a" not in runtime.sessions
        runtime.save("a")
        with pytest.raises(SettingError, match="no session 'mistyped'"):
            runtime.save("mistyped")


@pytest.mark.parametrize("call", ["flush", "save"])
def test_an_observer_of_a_save_is_refused_to_wait_for_one(opened, turn, call):
    """It would wait for its own thread."""
    told = []

    class Waits:
        @hookimpl
        def sfi_on_event(self, event):
            if isinstance(event, events.SessionSaved) and not told:
                with pytest.raises(SFIError, match="cannot wait for one"):
                    runtime.flush() if call == "flush" else runtime.save("b")
                told.append(event.session)

    runtime = opened()
    turn(runtime, session="b")
    runtime.flush()
    runtime.registry.add(Waits())
    turn(runtime)
    runtime.flush()
    assert told == ["a"]
    assert [info.id for info in runtime.store.list()] == ["a", "b"]


def test_a_stored_policy_of_other_plugins_changes_nothing(opened, turn, store, monkeypatch):
    runtime = opened()
    turn(runtime)
    runtime.close()

    def unknown(*_, **__):
        raise SettingError("no such setting")

    again = opened()
    with monkeypatch.context() as patched:
        patched.setattr("sfi_agent.store.restore.Policy.of", unknown)
        with pytest.raises(SettingError):
            turn(again)
    assert "a" not in again.sessions
    assert turn(again).reused_tokens == 39
