"""Many sessions under one limit: all finish, none is mixed up, memory stays under the limit."""

from __future__ import annotations

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from sfi_agent import Limits, Registry, Runtime
from sfi_agent.errors import PromptError, SettingError, TurnTimeoutError
from sfi_agent.events import SessionEvicted
from sfi_agent.hookspecs import hookimpl
from sfi_agent.runtime.row import Row
from sfi_agent.runtime.sizes import tensor_bytes
from sfi_agent.store.stored import StoredSession


class Watch:
    """Notes which sessions left, and what all of them take at every event."""

    name = "watch"

    def __init__(self):
        self.left, self.most, self.runtime = [], 0, None

    @hookimpl
    def sfi_on_event(self, event):
        if isinstance(event, SessionEvicted):
            self.left.append(event)
        if self.runtime:
            sessions = list(self.runtime.sessions.values())
            self.most = max(self.most, sum(tensor_bytes(session.row) for session in sessions))


@pytest.fixture
def limited(tiny):
    """``limited(limits, **options)``: a runtime and the watch on its events."""
    made = []

    def make(limits, **options):
        watch = Watch()
        registry = Registry()
        registry.add(watch)
        runtime = Runtime.load(
            tiny.model(), tokenizer=tiny.tokenizer, registry=registry, limits=limits, **options
        )
        watch.runtime = runtime
        made.append(runtime)
        return runtime, watch

    yield make
    for runtime in made:
        runtime.close()


def prompt_of(tiny, number, length=60):
    return [3 + number, *tiny.prompt(length)]


def size_of(tiny, length):
    """What a session of about so many tokens takes, by measurement."""
    with tiny.runtime() as runtime:
        runtime.generate(
            prompt_of(tiny, 0, length), sampling=tiny.sampling(4), session="one", policy=tiny.policy()
        )
        return tensor_bytes(runtime.sessions["one"].row)


@pytest.mark.parametrize("stored", [False, True])
def test_many_sessions_under_a_limit_that_holds_a_few(tiny, limited, tmp_path, stored):
    """Every session answers as it would alone, three turns each, in turns."""
    policy, count = tiny.policy("verified", adaptive_draft=False), 12
    runtime, watch = limited(
        Limits(bytes=4 * size_of(tiny, 120)), **({"store": tmp_path / "kept"} if stored else {})
    )
    alone = tiny.runtime()
    histories = [prompt_of(tiny, number) for number in range(count)]
    for turn in range(3):
        for number in range(count):
            ask = {"policy": policy, "sampling": tiny.sampling(6)}
            got = runtime.generate(histories[number], session=f"s{number}", **ask)
            assert got.token_ids == alone.generate(histories[number], **ask).token_ids
            if turn and stored:
                assert got.reused_tokens >= len(histories[number]) - 9, "it came back from the store"
            histories[number] += [*got.token_ids, 7 + turn, 9]
    assert len(watch.left) > count
    assert all(event.stored is stored and event.bytes > 0 for event in watch.left)
    assert 0 < watch.most <= 4 * size_of(tiny, 120)
    alone.close()


def test_concurrent_turns_wait_for_room(tiny, limited):
    limit, ask = 3 * size_of(tiny, 120), {"policy": tiny.policy("dense"), "sampling": tiny.sampling(8)}
    runtime, watch = limited(Limits(bytes=limit))
    with tiny.runtime() as alone:
        expected = [alone.generate(prompt_of(tiny, number), **ask).token_ids for number in range(10)]

    def answer(number):
        prompt, session = prompt_of(tiny, number), f"s{number}"
        return runtime.generate(prompt, session=session, timeout=60, **ask).token_ids

    with ThreadPoolExecutor(10) as threads:
        assert list(threads.map(answer, range(10))) == expected
    assert watch.most <= limit


def test_the_least_recently_used_leaves_first(tiny, limited):
    runtime, watch = limited(Limits(sessions=2))
    for name in ("a", "b", "a", "c"):
        runtime.generate(prompt_of(tiny, 0), sampling=tiny.sampling(2), session=name, policy=tiny.policy())
    assert [event.session for event in watch.left] == ["b"]
    assert set(runtime.sessions) == {"a", "c"}


def test_the_idle_leave(tiny, limited):
    runtime, watch = limited(Limits(idle_seconds=0.05))
    runtime.generate(prompt_of(tiny, 0), sampling=tiny.sampling(2), session="a", policy=tiny.policy())
    time.sleep(0.1)
    runtime.generate(prompt_of(tiny, 0), sampling=tiny.sampling(2), session="b", policy=tiny.policy())
    assert [event.session for event in watch.left] == ["a"]


def test_a_turn_that_can_never_fit_says_how_many_tokens_would(tiny, limited):
    runtime, _ = limited(Limits(bytes=2 * size_of(tiny, 60)))
    with pytest.raises(PromptError, match=r"[1-9]\d* tokens would fit: shorten the prompt or ask for fewer"):
        runtime.generate(tiny.prompt(400), sampling=tiny.sampling(2), policy=tiny.policy())


def test_where_no_turn_fits_the_least_that_one_takes_is_told(tiny, limited):
    with pytest.raises(
        PromptError, match=r"no turn takes less than [\d,]+: raise the runtime's limit"
    ) as told:
        limited(Limits(bytes=1000))[0].generate([5], sampling=tiny.sampling(1), policy=tiny.policy())
    assert "tokens would fit" not in str(told.value)
    least = int(re.search(r"less than ([\d,]+)", str(told.value))[1].replace(",", ""))
    with limited(Limits(bytes=least))[0].sessions._residency.admitted(None, 1, 0, None):
        pass


def test_as_many_tokens_as_would_fit_do(tiny, limited):
    """Of contexts short and long enough that a row's room is a share of them."""
    for size in (2**20, 2**27):
        runtime, _ = limited(Limits(bytes=size))
        residency = runtime.sessions._residency
        with pytest.raises(PromptError) as told, residency.admitted(None, 10**9, 0, None):
            pass
        fit = int(re.search(r"(\d+) tokens would fit", str(told.value))[1])
        with residency.admitted(None, fit, 0, None):
            pass
        with pytest.raises(PromptError), residency.admitted(None, fit + 2, 0, None):
            pass


def test_a_turn_that_waits_for_room_is_woken(tiny, limited, tmp_path, monkeypatch):
    """By a session that is dropped; and it looks now and then whether the disk works again."""
    from sfi_agent.store.stored import StoredSession

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sfi_agent.runtime.residency.RETRY", 1.0)
    for works_again in (False, True):
        runtime, _ = limited(Limits(bytes=2**30), store=tmp_path / str(works_again))
        ask, got = {"policy": tiny.policy("dense"), "sampling": tiny.sampling(8)}, []

        def waiting(runtime=runtime, ask=ask, got=got):
            got.append(runtime.generate(prompt_of(tiny, 1, 120), session="b", **ask))

        with monkeypatch.context() as patched:
            patched.setattr(StoredSession, "save", full)
            runtime.generate(prompt_of(tiny, 0, 120), session="a", **ask)
            residency = runtime.sessions._residency
            residency._limits = Limits(bytes=residency._expected.of(140))  # of one such turn
            thread = threading.Thread(target=waiting)
            thread.start()
            thread.join(0.2)
            assert thread.is_alive()
            if not works_again:
                runtime.drop_session("a")
                thread.join(30)
        thread.join(30)
        assert got[0].completion_tokens == 8


def test_one_told_of_a_save_may_drop_a_session(tiny, tmp_path, monkeypatch):
    """While another thread waits for that save, to make room."""
    from sfi_agent.events import SessionSaved
    from sfi_agent.store.stored import StoredSession

    save = StoredSession.save

    def slow(*arguments):
        time.sleep(0.2)
        return save(*arguments)

    monkeypatch.setattr(StoredSession, "save", slow)

    class Dropping:
        name = "dropping"

        @hookimpl
        def sfi_on_event(self, event):
            if isinstance(event, SessionSaved) and event.session == "b":
                runtime.drop_session("a")

    registry, store = Registry(), tmp_path / "kept"
    registry.add(Dropping())
    runtime = Runtime.load(
        tiny.model(), tokenizer=tiny.tokenizer, registry=registry, store=store, limits=Limits(sessions=2)
    )

    def turns():
        for number, name in enumerate("abac"):
            runtime.generate(
                prompt_of(tiny, number), sampling=tiny.sampling(2), session=name, policy=tiny.policy()
            )
        runtime.close()

    thread = threading.Thread(target=turns, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()


def test_dropped_sessions_are_not_counted(tiny, limited):
    runtime, _ = limited(Limits(sessions=5))
    for number in range(4):
        name = f"s{number}"
        runtime.generate(
            prompt_of(tiny, number), sampling=tiny.sampling(2), session=name, policy=tiny.policy()
        )
        runtime.drop_session(name)
    assert not runtime.sessions._residency._known


def test_a_stream_cancelled_while_it_waits_ends(tiny, limited):
    """For its session, or for room."""
    runtime, _ = limited(Limits(bytes=int(2.5 * size_of(tiny, 120))))
    ask = {"policy": tiny.policy("dense"), "sampling": tiny.sampling(8)}
    with runtime.stream(prompt_of(tiny, 0), session="a", **ask) as running:
        next(running)
        for session in ("a", "b"):
            waiting = runtime.stream(prompt_of(tiny, 1), session=session, **ask)
            thread = threading.Thread(target=list, args=(waiting,))
            thread.start()
            thread.join(0.1)
            assert thread.is_alive()
            waiting.cancel()
            thread.join(30)
            assert not thread.is_alive()


def test_a_turn_waits_no_longer_than_its_deadline(tiny, limited):
    runtime, _ = limited(Limits(bytes=int(2.5 * size_of(tiny, 120))))
    ask = {"policy": tiny.policy("dense"), "sampling": tiny.sampling(8)}
    with runtime.stream(prompt_of(tiny, 0), session="a", **ask) as stream:
        next(stream)
        with pytest.raises(TurnTimeoutError, match="took all the memory that sessions may have"):
            runtime.generate(prompt_of(tiny, 1), session="b", timeout=0.05, **ask)
    assert runtime.generate(prompt_of(tiny, 1), session="b", timeout=5, **ask).completion_tokens == 8


def test_a_running_session_stays(tiny, limited):
    runtime, watch = limited(Limits(sessions=1))
    ask = {"policy": tiny.policy("dense"), "sampling": tiny.sampling(8)}
    with runtime.stream(prompt_of(tiny, 0), session="a", **ask) as stream:
        next(stream)
        runtime.generate(prompt_of(tiny, 1), session="b", **ask)
        assert [event.session for event in watch.left] == ["b"]
        assert len(list(stream)) >= 1
    assert set(runtime.sessions) == {"a"}


def test_a_session_that_cannot_be_stored_stays(tiny, limited, tmp_path, monkeypatch):
    runtime, watch = limited(Limits(sessions=1), store=tmp_path / "kept")
    from sfi_agent.store.stored import StoredSession

    def full(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(StoredSession, "save", full)
        for name in ("a", "b"):
            runtime.generate(
                prompt_of(tiny, 0), sampling=tiny.sampling(2), session=name, policy=tiny.policy()
            )
        assert watch.left == []
        assert set(runtime.sessions) == {"a", "b"}
    runtime.generate(prompt_of(tiny, 0), sampling=tiny.sampling(2), session="c", policy=tiny.policy())
    assert [event.session for event in watch.left] == ["a", "b"]


def test_a_turn_that_waited_for_a_dropped_session_begins_it_anew(tiny):
    with tiny.runtime() as runtime:
        ask = {"policy": tiny.policy("dense"), "sampling": tiny.sampling(4), "session": "a"}
        runtime.generate(prompt_of(tiny, 0), **ask)
        old = runtime.sessions["a"]
        got = []
        with old.held(None):
            waiting = threading.Thread(target=lambda: got.append(runtime.generate(prompt_of(tiny, 0), **ask)))
            waiting.start()
            time.sleep(0.05)
            runtime.drop_session("a")
        waiting.join()
        assert got[0].reused_tokens == 0
        assert runtime.sessions["a"] is not old


def test_an_observer_of_a_session_that_leaves_may_have_others_leave(tiny, limited):
    runtime, watch = limited(Limits(idle_seconds=0.2))
    ask = {"policy": tiny.policy("dense"), "sampling": tiny.sampling(2)}
    for number in range(3):
        runtime.generate(prompt_of(tiny, number), session=f"s{number}", **ask)

    class Asks:
        @hookimpl
        def sfi_on_event(self, event):
            if isinstance(event, SessionEvicted):
                runtime.notes("another")

    runtime.registry.add(Asks())
    time.sleep(0.3)
    runtime.generate(prompt_of(tiny, 3), session="s3", **ask)
    assert sorted(event.session for event in watch.left) == ["s0", "s1", "s2"]


def test_a_session_that_waits_for_the_disk_to_leave_keeps_no_other_turn_waiting(tiny, tmp_path, monkeypatch):
    writing, go_on, save = threading.Event(), threading.Event(), StoredSession.save

    def slow(*arguments):
        writing.set()
        assert go_on.wait(60)
        return save(*arguments)

    ask = {"policy": tiny.policy("dense"), "sampling": tiny.sampling(2)}
    limits = Limits(sessions=1)
    with Runtime.load(tiny.model(), tokenizer=tiny.tokenizer, store=tmp_path, limits=limits) as runtime:
        with monkeypatch.context() as patched:
            patched.setattr(StoredSession, "save", slow)
            runtime.generate(prompt_of(tiny, 0), session="a", **ask)
            leaves = threading.Thread(
                target=lambda: runtime.generate(prompt_of(tiny, 1), session="b", **ask), daemon=True
            )
            leaves.start()
            assert writing.wait(60)
            while not runtime.sessions._residency._moving:
                time.sleep(0.001)
            assert runtime.generate(prompt_of(tiny, 2), timeout=60, **ask).completion_tokens == 2
            assert runtime.sessions._residency._moving
            go_on.set()
            leaves.join(60)
        assert list(runtime.sessions) == ["b"]


@pytest.mark.parametrize(
    "limits", [{"bytes": 0}, {"sessions": -1}, {"idle_seconds": 0.0}, {"bytes": "1GB"}, {"host_bytes": [1]}]
)
def test_limits_are_positive_numbers(limits):
    with pytest.raises(SettingError, match=r"limits: \w+ must be a number above 0 \(given .+\)$"):
        Limits(**limits)


def test_bytes_count_every_storage_once(tiny):
    assert tensor_bytes(Row()) == 0
    with tiny.runtime() as runtime:
        runtime.generate(
            prompt_of(tiny, 0), sampling=tiny.sampling(4), session="a", policy=tiny.policy(selector="index")
        )
        row = runtime.sessions["a"].row
        assert row.indexes
        assert tensor_bytes([row, row]) == tensor_bytes(row) > row.kv.nbytes


def test_bytes_are_counted_of_what_a_turn_adds_to():
    class Adds:
        __slots__ = ()

        @property
        def __dict__(self):
            held.add(1)
            return {}

    held = {Adds()}
    assert tensor_bytes(held) == 0
    assert len(held) == 2


def test_ctrl_c_as_a_turn_is_let_in_keeps_no_other_out(tiny):
    """It may come inside of a condition's own ``with``, whose lock would stay with who was interrupted."""
    runtime = Runtime.load(tiny.model(), tokenizer=tiny.tokenizer, limits=Limits(sessions=5))

    def interrupted(*_):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched, suppress(KeyboardInterrupt):
        patched.setattr(threading.Condition, "__exit__", interrupted)
        tiny.run(runtime, tiny.prompt(8), "dense", 2)
    done = []
    other = threading.Thread(
        target=lambda: done.append(tiny.run(runtime, tiny.prompt(8), "dense", 2)), daemon=True
    )
    other.start()
    other.join(30)
    assert done, "it waits for ever"
