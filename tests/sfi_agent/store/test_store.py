"""The store without a model: what is written comes back, and what cannot is refused."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sfi_agent.errors import (
    SessionBusyError,
    SessionCorruptError,
    SessionError,
    SessionExistsError,
    SessionMismatchError,
    SessionNotFoundError,
    SessionNotSavedError,
    SettingError,
)
from sfi_agent.runtime.session import Session
from sfi_agent.store import SessionStore, snapshot
from sfi_agent.store import manifest as manifests
from sfi_agent.store.manifest import Manifest
from sfi_agent.store.naming import PATTERN, folder_name
from sfi_agent.store.snapshot import keep
from tests.sfi_agent.store.sessions import IDENTITY, Numbers, grown, load, make, save

IDS = [
    *("a", "A", "", ".", "..", "../../etc/passwd", "/root", "a/b", "a\\b", "C:con", "\x00", "x" * 999, "-"),
    *("Ä ö 漢字 🦉", ".locks", "a\n", "~", "$HOME", "%2e%2e"),
]


@pytest.fixture
def store(tmp_path) -> SessionStore:
    return SessionStore(tmp_path / "sessions")


def files_of(store: SessionStore, id: str = "numbers") -> list[Path]:
    return sorted(path for path in (store.folder / folder_name(id)).iterdir())


class TestSaveAndLoad:
    def test_what_was_saved_comes_back(self, store):
        numbers = grown()
        save(store, numbers)
        numbers.check(load(store))

    def test_a_session_without_a_step(self, store):
        numbers = Numbers(1)
        numbers.turn(0, 0)
        save(store, numbers)
        numbers.check(load(store))

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        steps=st.lists(
            st.tuples(
                st.floats(0, 1),
                st.integers(0, 30),
                st.sampled_from(["save", "skip", "reload", "fork", "move"]),
            ),
            min_size=1,
            max_size=12,
        ),
        seed=st.integers(0, 1000),
    )
    def test_any_history_of_turns_saves_and_restarts(self, tmp_path_factory, steps, seed):
        """Turns cut and grow the session; it is saved or not, reopened, forked, exported and imported."""
        folder = tmp_path_factory.mktemp("property")
        store, numbers = SessionStore(folder / "s"), Numbers(seed)
        stored = store.open("numbers")
        for share, new, what in steps:
            numbers.turn(int(share * len(numbers.epochs)), new)
            if what == "skip":
                continue
            stored.save(stored.snapshot(numbers.session), IDENTITY)
            stored.close()
            if what == "fork":
                store.fork("numbers", "forked")
                twin = load(store, "forked")
                numbers.check(twin)
                store.delete("forked")
            if what == "move":
                store.export("numbers", folder / "file")
                store.delete("numbers")
                store.import_(folder / "file")
                (folder / "file").unlink()
            stored = store.open("numbers")
            if what != "save":
                loaded = Session("numbers")
                assert stored.load(loaded, IDENTITY, torch.device("cpu"), make) == ""
                numbers.check(loaded)
                numbers.session, numbers.selector = loaded, loaded.kept.selector
            else:
                stored.stable = min(numbers.session.row.kv.unchanged, numbers.session.row.kv.length)
        stored.save(stored.snapshot(numbers.session), IDENTITY)
        stored.close()
        numbers.check(load(store))
        assert (
            len(list((store.folder / folder_name("numbers")).iterdir())) == store.inspect("numbers").files + 1
        )

    def test_a_save_writes_what_is_new_only(self, store):
        numbers = Numbers(1)
        numbers.turn(0, 4000)
        with store.open("numbers") as stored:
            first = stored.save(stored.snapshot(numbers.session), IDENTITY)
            numbers.turn(4000, 10)
            second = stored.save(stored.snapshot(numbers.session), IDENTITY)
        assert second.written < first.written / 4
        assert second.stored > first.stored
        numbers.check(load(store))

    def test_many_short_turns_make_few_files(self, store):
        numbers = Numbers(1)
        with store.open("numbers") as stored:
            for turn in range(70):
                numbers.turn(turn, 1)
                stored.save(stored.snapshot(numbers.session), IDENTITY)
        assert store.inspect("numbers").files <= 9
        numbers.check(load(store))

    def test_a_failed_save_is_made_up_for(self, store, monkeypatch):
        numbers = grown()
        with store.open("numbers") as stored:
            stored.save(stored.snapshot(numbers.session), IDENTITY)
            numbers.turn(20, 30)
            stored.snapshot(numbers.session)  # never written
            numbers.turn(35, 5)
            stored.save(stored.snapshot(numbers.session), IDENTITY)
        numbers.check(load(store))

    @pytest.mark.parametrize("breaks", ["all", "gone", "cut"])
    def test_files_that_are_gone_are_written_again(self, store, breaks):
        numbers = Numbers(1)
        numbers.turn(0, 400)
        with store.open("numbers") as stored:
            stored.save(stored.snapshot(numbers.session), IDENTITY)
            self.lose(store, breaks)
            numbers.turn(400, 10)
            stored.save(stored.snapshot(numbers.session), IDENTITY)
            assert store.inspect("numbers").turns == 2
            numbers.turn(410, 10)
            late = stored.snapshot(numbers.session)
            self.lose(store, breaks)
            with pytest.raises(SessionNotSavedError, match=r"kv-.* is not there as it was written"):
                stored.save(late, IDENTITY)
            stored.save(stored.snapshot(numbers.session), IDENTITY)
        numbers.check(load(store))

    def lose(self, store, breaks):
        """Take what was saved away, or the first file of keys and values, or its end."""
        folder = store.folder / folder_name("numbers")
        path = min(folder.glob("kv-*"))
        if breaks == "all":
            shutil.rmtree(folder)
        elif breaks == "gone":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:-1])

    def test_a_long_session_is_written_in_pieces(self, store, monkeypatch):
        monkeypatch.setattr(snapshot, "PIECE_BYTES", 100 * 2 * 2 * 2 * 4 * 4)  # 100 positions
        numbers = Numbers(1)
        numbers.turn(0, 950)
        with store.open("numbers") as stored:
            stored.save(stored.snapshot(numbers.session), IDENTITY)
            assert store.inspect("numbers").files == 11
            for turn in range(20):
                numbers.turn(950 + 10 * turn, 10)
                saved = stored.save(stored.snapshot(numbers.session), IDENTITY)
                assert saved.written < saved.stored / 3
        numbers.check(load(store))

    @given(
        sizes=st.lists(st.integers(1, 50), max_size=8),
        stable=st.integers(0, 400),
        length=st.integers(0, 400),
        most=st.integers(1, 90),
    )
    def test_segments_kept(self, sizes, stable, length, most):
        segments, stop = [], 0
        for size in sizes:
            segments.append(manifests.Segment(file="f", first=stop, stop=stop + size))
            stop += size
        stable = min(stable, length, stop)
        kept = keep(tuple(segments), stable, length, most)
        assert [segment.first for segment in kept] == [0, *(segment.stop for segment in kept)][: len(kept)]
        end = kept[-1].stop if kept else 0
        assert end <= stable
        for last in kept[-1:] if end < length else []:
            assert last.stop - last.first > length - end or length - last.first > most


class TestIds:
    @pytest.mark.parametrize("id", IDS)
    def test_any_id_stays_in_the_folder(self, store, tmp_path, id):
        numbers = grown(id=id)
        save(store, numbers)
        numbers.check(load(store, id))
        assert [info.id for info in store.list()] == [id]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["sessions"]
        assert {path.name for path in store.folder.iterdir()} == {".locks", folder_name(id)}
        store.fork(id, id + "/../fork")
        store.delete(id)
        assert [info.id for info in store.list()] == [id + "/../fork"]

    @given(st.text())
    def test_names_are_plain(self, id):
        assert PATTERN.fullmatch(folder_name(id))

    def test_ids_that_look_alike_are_kept_apart(self):
        names = {folder_name(id).lower() for id in ("a b", "a_b", "A b", "a-b", "a b ", "ä b")}
        assert len(names) == 6

    def test_half_a_character_is_refused(self, store):
        with pytest.raises(SettingError, match="UTF-8"):
            store.open("\ud800")


@pytest.mark.parametrize("umask", [0o000, 0o777, 0o022])
def test_only_the_owner_can_read(store, tmp_path, umask):
    before = os.umask(umask)
    try:
        save(store, grown())
        store.fork("numbers", "fork")
        store.export("numbers", tmp_path / "exported")
        store.import_(tmp_path / "exported", "imported")
    finally:
        os.umask(before)
    paths = [store.folder, tmp_path / "exported", *store.folder.rglob("*")]
    assert len(paths) > 15
    for path in paths:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_nothing_is_pickled(store):
    """Only JSON and safetensors, by name and by content."""
    save(store, grown())
    for path in files_of(store):
        data = path.read_bytes()
        if path.suffix == ".json":
            json.loads(data)
        else:
            assert path.suffix == ".safetensors"
            json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])


class TestManagement:
    def test_unknown_sessions(self, store, tmp_path):
        for call in (store.inspect, store.delete, lambda id: store.fork(id, "b")):
            with pytest.raises(SessionNotFoundError, match="no session 'a'"):
                call("a")
        with pytest.raises(SessionNotFoundError, match="no session 'a'"):
            store.export("a", tmp_path / "f")
        with pytest.raises(SessionNotFoundError, match="no file"):
            store.import_(tmp_path / "nothing")
        assert store.list() == []
        assert not (tmp_path / "f").exists()
        assert not store.folder.exists()

    def test_what_is_listed(self, store):
        save(store, grown(1, id="a"))
        save(store, grown(2, id="b"))
        assert [info.id for info in store.list()] == ["b", "a"]
        info = store.inspect("a")
        assert (info.turns, info.model, info.dtype, info.mode) == (3, "numbers", "float32", "sfi")
        assert info.tokens == len(grown(1).tokens())
        assert info.bytes == sum(p.stat().st_size for p in files_of(store, "a") if p.name != "manifest.json")

    def test_a_damaged_one_does_not_hide_the_others(self, store):
        save(store, grown(1, id="a"))
        save(store, grown(2, id="b"))
        (store.folder / folder_name("a") / "manifest.json").write_text("{")
        good, bad = sorted(store.list(), key=lambda info: info.problem)
        assert good.id == "b"
        assert bad.id == folder_name("a")
        assert "changed" in bad.problem

    def test_a_deletion_that_is_cut_short_leaves_no_session(self, store, monkeypatch):
        save(store, grown())
        (tensors, *_) = [path for path in files_of(store) if path.name != "manifest.json"]

        def cut(folder):
            tensors.unlink()
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(shutil, "rmtree", cut)
            with pytest.raises(KeyboardInterrupt):
                store.delete("numbers")
        assert "numbers" not in store
        assert store.list() == []
        anew = grown(2)
        save(store, anew)
        anew.check(load(store))
        store.delete("numbers")
        assert not (store.folder / folder_name("numbers")).exists()

    def test_a_fork_goes_its_own_way(self, store):
        numbers = grown()
        save(store, numbers)
        store.fork("numbers", "fork")
        twin = load(store, "fork")
        numbers.check(twin)
        before = sum(path.stat().st_nlink > 1 for path in files_of(store, "fork"))
        assert before == store.inspect("fork").files, "the files are shared"
        numbers.turn(5, 60)
        save(store, numbers)
        numbers.check(load(store))
        store.delete("numbers")
        grown().check(load(store, "fork"))

    def test_where_files_cannot_be_linked_they_are_copied(self, store, monkeypatch):
        monkeypatch.setattr(Path, "hardlink_to", lambda self, other: os.link("/nonexistent", self))
        save(store, grown())
        store.fork("numbers", "fork")
        grown().check(load(store, "fork"))
        assert all(path.stat().st_nlink == 1 for path in files_of(store, "fork"))

    def test_ids_that_are_taken(self, store, tmp_path):
        save(store, grown(1))
        save(store, grown(2, id="other"))
        store.export("numbers", tmp_path / "f")
        with pytest.raises(SessionExistsError, match="exists"):
            store.export("other", tmp_path / "f")
        forks = (lambda: store.fork("other", "numbers"), lambda: store.fork("numbers", "numbers"))
        for call in (*forks, lambda: store.import_(tmp_path / "f")):
            with pytest.raises(SessionExistsError, match="stored already"):
                call()
        grown(1).check(load(store))

    def test_a_session_moves(self, store, tmp_path):
        save(store, grown())
        store.export("numbers", tmp_path / "f")
        other = SessionStore(tmp_path / "elsewhere")
        assert other.import_(tmp_path / "f", "new").id == "new"
        grown().check(load(other, "new"))

    def test_a_machine_whose_clock_began_anew_exports(self, store, tmp_path, monkeypatch):
        """At 1970, before any time that a zip can tell."""
        numbers = grown()
        save(store, numbers)
        for path in (store.folder / folder_name("numbers")).iterdir():
            os.utime(path, (0, 0))
        monkeypatch.setattr("time.time", lambda: 0.0)
        store.export("numbers", tmp_path / "file")
        store.import_(tmp_path / "file", "b")
        numbers.check(load(store, "b"))

    def test_any_flip_of_an_exported_file_is_harmless_or_refused(self, store, tmp_path):
        save(store, grown(turns=1))
        store.export("numbers", tmp_path / "f")
        data = (tmp_path / "f").read_bytes()
        damaged = tmp_path / "damaged"
        refused = 0
        places = [*range(0, 600), *range(600, len(data) - 900, 97), *range(len(data) - 900, len(data))]
        for place in places:
            damaged.write_bytes(data[:place] + bytes([data[place] ^ (1 << place % 8)]) + data[place + 1 :])
            try:
                store.import_(damaged, "new")
            except (SessionCorruptError, SessionMismatchError):
                refused += 1
                assert [info.id for info in store.list()] == ["numbers"]
            else:
                grown(turns=1).check(load(store, "new"))
                store.delete("new")
        assert refused > 0.5 * len(places)
        for size in (0, 1, 100, len(data) // 2, len(data) - 1):
            damaged.write_bytes(data[:size])
            with pytest.raises(SessionCorruptError, match="damaged"):
                store.import_(damaged, "new")

    def test_a_manifest_cannot_name_files_elsewhere(self, store):
        save(store, grown())
        path = store.folder / folder_name("numbers") / "manifest.json"
        manifest = Manifest.decode(path.read_bytes())
        for name in ("../x", "/etc/passwd", "kv-000001-00000000.safetensors/../../x", "x"):
            named = manifest.model_copy(
                update={"state": name, "files": {name: manifest.files[manifest.state]}}
            )
            with pytest.raises(SessionCorruptError):
                Manifest.decode(named.model_copy(update={"segments": (), "length": 0, "layers": {}}).encode())


class TestTwoAtOnce:
    def test_the_second_is_told(self, store):
        save(store, grown())
        with store.open("numbers"):
            for call in (store.open, store.delete, lambda id: store.fork(id, "b")):
                with pytest.raises(SessionBusyError, match="open in another process"):
                    call("numbers")
            assert store.inspect("numbers").turns == 3, "looking at it is fine"
        grown().check(load(store))

    def test_in_another_process(self, store):
        code = (
            "import sys; from sfi_agent.store import SessionStore; from sfi_agent.errors import *\n"
            "try: SessionStore(sys.argv[1]).open('numbers')\n"
            "except SessionBusyError as error: print(error)"
        )
        command = [sys.executable, "-c", code, str(store.folder)]
        with store.open("numbers"):
            told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert "session 'numbers' is open in another process" in told
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == ""

    def test_one_of_many_threads_gets_it(self, store):
        save(store, grown())
        outcomes, barrier = [], threading.Barrier(16)

        def attempt() -> None:
            barrier.wait()
            try:
                outcomes.append(store.open("numbers"))
            except SessionBusyError:
                outcomes.append(None)

        threads = [threading.Thread(target=attempt) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (holder,) = [outcome for outcome in outcomes if outcome]
        holder.close()


class TestRefusals:
    @pytest.mark.parametrize(
        ("changed", "told"),
        [
            ({"dtype": "bfloat16"}, "another dtype: dtype float32 .here: bfloat16.; load dtype='float32'"),
            ({"weights": "x"}, "another weights.*load the model 'numbers'"),
            ({"tokenizer": "x"}, "another tokenizer"),
        ],
    )
    def test_a_foreign_model(self, store, changed, told):
        save(store, grown())
        before = [path.read_bytes() for path in files_of(store)]
        with pytest.raises(SessionMismatchError, match=told):
            load(store, identity=IDENTITY.model_copy(update=changed))
        assert [path.read_bytes() for path in files_of(store)] == before

    def test_another_name_of_the_same_model_is_fine(self, store):
        save(store, grown())
        grown().check(load(store, identity=IDENTITY.model_copy(update={"name": "/models/numbers"})))

    def test_a_newer_format(self, store, monkeypatch):
        monkeypatch.setattr(manifests, "FORMAT", 2)
        save(store, grown())
        monkeypatch.undo()
        with pytest.raises(
            SessionMismatchError, match=r"'numbers'.*format 2.*reads format 1; update sfi-agent"
        ):
            load(store)
        (info,) = store.list()
        assert "format 2" in info.problem

    @pytest.mark.parametrize("place", ["a file", "below a file"])
    def test_a_folder_that_cannot_be(self, tmp_path, place):
        (tmp_path / "taken").write_text("x")
        folder = tmp_path / "taken" if place == "a file" else tmp_path / "taken" / "s"
        with pytest.raises(SessionError, match="cannot be kept in"):
            SessionStore(folder).open("a")
