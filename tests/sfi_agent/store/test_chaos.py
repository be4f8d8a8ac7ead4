"""What may happen to a store: killed processes, damaged files, full disks, operations that fail."""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from sfi_agent import Runtime
from sfi_agent.errors import SessionCorruptError, SessionError, SessionMismatchError, SessionNotSavedError
from sfi_agent.registry import default_registry
from sfi_agent.store import SessionStore, files
from sfi_agent.store.naming import folder_name
from tests.sfi_agent.store.sessions import IDENTITY, Numbers, grown, load

pytestmark = pytest.mark.chaos
ROOT = Path(__file__).parents[3]
LENGTHS = (1, 7, 20)


@pytest.fixture
def store(tmp_path) -> SessionStore:
    return SessionStore(tmp_path / "sessions")


def twice_saved(store: SessionStore) -> Numbers:
    """Two saves: two segments, the first of which is used in part."""
    numbers = Numbers(1)
    with store.open("numbers") as stored:
        numbers.turn(0, 90)
        stored.save(stored.snapshot(numbers.session), IDENTITY)
        numbers.turn(80, 10)
        stored.save(stored.snapshot(numbers.session), IDENTITY)
    return numbers


def test_killed_at_random_moments_of_a_save(tmp_path, rounds, tell):
    trials = rounds(40, 1000)
    done = subprocess.run(
        [sys.executable, "-m", "tests.sfi_agent.store.chaos", str(tmp_path), str(trials), "7"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout)
    tell(outcomes)
    assert (outcomes["trials"], outcomes["lost"]) == (trials, 0)
    assert outcomes["killed within a save"] > trials / 10, "the kills missed what they aim at"


def test_a_flipped_bit_anywhere(store, rounds, tell):
    """Every byte of the manifest, and others at random: refused as a whole, nothing touched."""
    numbers, folder, source = twice_saved(store), store.folder / folder_name("numbers"), random.Random(1)
    outcomes: Counter[str] = Counter()
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        every = path.suffix == ".json"
        tried = len(data) if every else min(len(data), rounds(60, 3000))
        places = sorted(source.sample(range(len(data)), tried))
        for place in places:
            flipped = data[place] ^ (1 << source.randrange(8))
            path.write_bytes(data[:place] + bytes([flipped]) + data[place + 1 :])
            with pytest.raises(
                (SessionCorruptError, SessionMismatchError), match="session 'numbers'"
            ) as error:
                load(store)
            assert "\n" not in str(error.value)
            outcomes[type(error.value).__name__] += 1
        path.write_bytes(data)
    numbers.check(load(store))
    tell(outcomes)


def test_every_file_cut_or_gone(store, rounds, tell):
    numbers, folder, source = twice_saved(store), store.folder / folder_name("numbers"), random.Random(2)
    outcomes: Counter[str] = Counter()
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        sizes = {0, 1, 7, 8, len(data) - 1, *source.sample(range(len(data)), rounds(10, 1000))}
        for size in sorted(sizes):
            path.write_bytes(data[:size])
            with pytest.raises(SessionCorruptError, match="session 'numbers' is damaged") as error:
                load(store)
            assert "delete the session" in str(error.value)
            outcomes["cut: refused"] += 1
        path.write_bytes(data + b"\0")
        with pytest.raises(SessionCorruptError, match="session 'numbers' is damaged"):
            load(store)
        outcomes["longer: refused"] += 1
        path.unlink()
        if path.name != "manifest.json":
            with pytest.raises(SessionCorruptError, match=f"{path.name} is missing"):
                load(store)
            outcomes["gone: refused"] += 1
        path.write_bytes(data)
    numbers.check(load(store))
    tell(outcomes)


def test_two_files_exchanged(store, tell):
    numbers, outcomes = twice_saved(store), Counter()
    there = sorted((store.folder / folder_name("numbers")).glob("*.safetensors"))
    for first, second in itertools.combinations(there, 2):
        before = first.read_bytes(), second.read_bytes()
        first.write_bytes(before[1])
        second.write_bytes(before[0])
        with pytest.raises(SessionCorruptError, match="damaged"):
            load(store)
        outcomes["exchanged: refused"] += 1
        first.write_bytes(before[0])
        second.write_bytes(before[1])
    assert outcomes["exchanged: refused"] >= 3
    numbers.check(load(store))
    tell(outcomes)


class Crash(BaseException):
    """Ends a save where it stands: no handler of errors sees it, as none sees a kill."""


class Faults:
    """Raises at one operation on files, counted over all of them."""

    def __init__(self, monkeypatch, error: BaseException) -> None:
        self.calls, self.at, self.error = 0, -1, error
        for name in ("open", "fsync"):
            monkeypatch.setattr(files.os, name, self._counted(getattr(os, name)))
        for name in ("replace", "unlink", "mkdir"):
            monkeypatch.setattr(Path, name, self._counted(getattr(Path, name)))

    def _counted(self, function):
        def call(*args: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls - 1 == self.at:
                raise self.error
            return function(*args, **options)

        return call


@pytest.mark.parametrize("kind", ["crash", "full disk"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_every_operation_of_a_save_failing_in_turn(store, monkeypatch, kind, tell):
    """After each, what is stored is whole: as before, or as it was to become; then the save goes well."""
    error = Crash() if kind == "crash" else OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    faults, outcomes = Faults(monkeypatch, error), Counter()
    numbers = Numbers(1)
    with store.open("numbers") as stored:
        numbers.turn(0, 90)
        stored.save(stored.snapshot(numbers.session), IDENTITY)
    for at in range(1000):
        stored = store.open("numbers")
        stored.stable = 0
        faults.calls = 0
        before = numbers.session.turns
        numbers.turn(70 + at % 10, 30)
        snapshot = stored.snapshot(numbers.session)
        faults.at = at
        try:
            stored.save(snapshot, IDENTITY)
            outcomes["saved"] += 1
        except (Crash, SessionNotSavedError):
            outcomes["failed"] += 1
        faults.at, calls = -1, faults.calls
        stored.close()
        turns = store.inspect("numbers").turns
        outcomes["as before" if turns == before else "as it was to become"] += 1
        assert turns in (before, numbers.session.turns)
        with store.open("numbers") as again:
            again.save(again.snapshot(numbers.session), IDENTITY)
        numbers.check(load(store))
        left = {path.name for path in (store.folder / folder_name("numbers")).iterdir()}
        assert len(left) == store.inspect("numbers").files + 1, left
        if calls <= at:
            break
    assert outcomes["failed"] >= 6
    assert outcomes["as it was to become"] < outcomes["as before"]
    tell(outcomes)


def test_everything_is_on_the_disk_before_it_counts(store, monkeypatch, tell):
    """A machine that loses power keeps what was synced: each file and the folder, before the rename."""
    done: list[str] = []
    sync, replace = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        done.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        sync(descriptor)

    def renamed(self: Path, target: Path) -> Path:
        done.append(f"{self.name} -> {Path(target).name}")
        return replace(self, target)

    monkeypatch.setattr(files.os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", renamed)
    numbers = grown()
    with store.open("numbers") as stored:
        done.clear()
        stored.save(stored.snapshot(numbers.session), IDENTITY)
    folder = folder_name("numbers")
    rename = done.index("manifest.json.new -> manifest.json")
    written = [path.name for path in (store.folder / folder).glob("*.safetensors")]
    assert len(written) == 2
    assert {*written, "manifest.json.new", folder, store.folder.name} <= set(done[:rename])
    assert done.index(folder) > max(done.index(name) for name in written)
    assert done[rename + 1] == folder
    tell({"synced before the rename": len(set(done[:rename])), "after it": len(done[rename + 1 :])})


class TestAFullDisk:
    """A session grows until nothing more fits; what was stored stays, and goes on once there is room."""

    def fill(self, store: SessionStore, numbers: Numbers, stored) -> str:
        for _ in range(200):
            length = len(numbers.epochs)
            numbers.turn(length, 400)
            try:
                stored.save(stored.snapshot(numbers.session), IDENTITY)
            except SessionNotSavedError as error:
                return str(error)
        raise AssertionError("the disk never filled")

    def check(self, store: SessionStore, numbers: Numbers, stored, told: str, make_room, tell) -> None:
        assert "\n" not in told
        assert "session 'numbers' was not saved" in told
        assert "Make room" in told
        kept = store.inspect("numbers").turns
        assert kept == numbers.session.turns - 1
        folder = store.folder / folder_name("numbers")
        assert len(list(folder.iterdir())) == store.inspect("numbers").files + 1, (
            "nothing half written is left"
        )
        make_room()
        stored.save(stored.snapshot(numbers.session), IDENTITY)
        stored.close()
        numbers.check(load(store))
        after = store.inspect("numbers").turns
        tell({"turns saved before it was full": kept, "turns saved once there was room": after})

    def test_a_small_tmpfs(self, tmp_path, tell):
        disk = tmp_path / "disk"
        disk.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if mounted.returncode:
            pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
        try:
            store, numbers = SessionStore(disk / "s"), Numbers(1)
            stored = store.open("numbers")
            told = self.fill(store, numbers, stored)
            assert "No space left on device" in told

            def make_room() -> None:
                subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)

            self.check(store, numbers, stored, told, make_room, tell)
        finally:
            subprocess.run(["umount", str(disk)], check=True)

    def test_a_limit_on_the_size_of_files(self, store, tell):
        numbers, stored = Numbers(1), store.open("numbers")
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, before[1]))
            told = self.fill(store, numbers, stored)
            assert "File too large" in told
            unlimited = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)  # noqa: E731
            self.check(store, numbers, stored, told, unlimited, tell)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    @pytest.mark.parametrize("what", ["fork", "export", "import"])
    def test_nothing_is_left_of_a_copy_that_did_not_fit(self, store, tmp_path, monkeypatch, what, tell):
        def full(source: Any, out: Any, *_: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        numbers = twice_saved(store)
        store.export("numbers", tmp_path / "exported")
        monkeypatch.setattr(Path, "hardlink_to", lambda self, other: full(None, None))
        monkeypatch.setattr(shutil, "copyfileobj", full)
        monkeypatch.setattr(files.os, "fsync", lambda descriptor: full(None, None))
        call = {
            "fork": lambda: store.fork("numbers", "new"),
            "export": lambda: store.export("numbers", tmp_path / "new"),
            "import": lambda: store.import_(tmp_path / "exported", "new"),
        }[what]
        with pytest.raises(SessionError, match="No space left on device"):
            call()
        monkeypatch.undo()
        assert [info.id for info in store.list()] == ["numbers"]
        there = {*store.folder.iterdir(), *tmp_path.iterdir()}
        known = {store.folder / ".locks", store.folder / folder_name("numbers")}
        left = there - known - {store.folder, tmp_path / "exported"}
        tell({"files left of it": len(left)})
        assert not left
        numbers.check(load(store))


def test_many_threads_on_few_sessions(tiny, tmp_path, rounds, tell):
    """50 threads on 5 sessions: every turn gets what its prompt alone would, before and after a restart."""
    policy, sampling, sessions = tiny.policy("verified", adaptive_draft=False), tiny.sampling(6), 5
    prompts = {name: tiny.prompt(30, seed=name) for name in range(sessions)}
    failures: list[str] = []
    turns: Counter[int] = Counter()

    def opened() -> Runtime:
        registry = default_registry()
        return Runtime.load(tiny.model(), tokenizer=tiny.tokenizer, store=tmp_path, registry=registry)

    def run(runtime: Runtime, thread: int) -> None:
        source = random.Random(thread)
        for _ in range(rounds(2, 20)):
            name = source.randrange(sessions)
            asked = [*prompts[name], *tiny.prompt(source.choice(LENGTHS), seed=source.randrange(3))]
            got = runtime.generate(asked, policy=policy, sampling=sampling, session=f"s{name}").token_ids
            if got != expected[tuple(asked)]:
                failures.append(f"session {name}")
            turns[name] += 1

    with opened() as runtime:
        expected = {
            tuple(asked): runtime.generate(asked, policy=tiny.policy("dense"), sampling=sampling).token_ids
            for name in range(sessions)
            for length in LENGTHS
            for seed in range(3)
            for asked in [[*prompts[name], *tiny.prompt(length, seed=seed)]]
        }
    for _ in range(2):
        with opened() as runtime:
            threads = [threading.Thread(target=run, args=(runtime, thread)) for thread in range(50)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    stored = {info.id: info.turns for info in SessionStore(tmp_path).list()}
    lost = sum(max(0, count - stored.get(f"s{name}", 0)) for name, count in turns.items())
    tell({"turns": turns.total(), "wrong": len(failures), "lost": lost})
    assert failures == []
    assert stored == {f"s{name}": count for name, count in turns.items()}, "no turn is lost"
    assert torch.is_inference_mode_enabled() is False
