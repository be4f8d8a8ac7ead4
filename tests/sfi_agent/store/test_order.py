"""What a session's sparse memory is made of comes back before its keys and values, from disk and host."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sfi_agent import Runtime
from sfi_agent.errors import SessionCorruptError, SessionMismatchError
from sfi_agent.store import manifest as manifests
from sfi_agent.store.files import TENSOR_FILE
from sfi_agent.store.manifest import read_manifest
from sfi_agent.store.naming import folder_name


class Opened:
    """The names of the files of tensors that this process opened, in order.

    An audit hook cannot be taken out again: this one sleeps while nobody asks.
    """

    names: list[str] | None = None

    def __call__(self, event, arguments):
        if self.names is None or event != "open" or not isinstance(arguments[0], str | Path):
            return
        if TENSOR_FILE.fullmatch(name := Path(arguments[0]).name):
            self.names.append(name)


OPENED = Opened()
sys.addaudithook(OPENED)


@pytest.fixture
def read():
    """The files of tensors that the test opens, from here on."""
    OPENED.names = []
    yield OPENED.names
    OPENED.names = None


class Taken(dict):
    """Tensors, and the names of those that were taken out, in order."""

    def __init__(self, tensors):
        super().__init__(tensors)
        self.names: list[str] = []

    def __getitem__(self, name):
        self.names.append(name)
        return super().__getitem__(name)


def kinds(names) -> list[str]:
    """What the tensors of these names are of, without repetition."""
    of = {"queries": "memory", "index": "memory", "selector": "memory", "keys": "kv", "values": "kv"}
    found = [of[name.partition(".")[0]] for name in names]
    return [kind for place, kind in enumerate(found) if found[place - 1 : place] != [kind]]


@pytest.fixture
def ask(tiny) -> Callable[..., list[int]]:
    """``ask(runtime, prompt)``: the history after a turn that remembers."""

    def turn(runtime, prompt):
        policy = tiny.policy("sfi", selector="index", kernel="torch")  # which keeps indexes, not codes
        told = runtime.generate(prompt, policy=policy, sampling=tiny.sampling(6), session="a")
        return [*prompt, *told.token_ids]

    return turn


@pytest.fixture
def kept(tiny, tmp_path, ask) -> Path:
    """The folder of a session of two turns, whose keys and values are in two files."""
    with Runtime.load(tiny.model(), tokenizer=tiny.tokenizer, store=tmp_path) as runtime:
        history = ask(runtime, tiny.prompt(120))
        runtime.flush()
        ask(runtime, [*history, 9])
    return tmp_path / folder_name("a")


def test_from_disk(tiny, kept, ask, read):
    manifest = read_manifest(kept)
    assert len(manifest.segments) == 2
    assert manifest.indexes
    with Runtime.load(tiny.model(), tokenizer=tiny.tokenizer, store=kept.parent) as runtime:
        with runtime.sessions.held("a", None) as session:
            assert session.row.kv.length == manifest.length
        assert read == [manifest.state, *(segment.file for segment in manifest.segments)]


@pytest.mark.parametrize("damage", ["cut", "gone", "foreign", "newer"])
def test_a_memory_that_is_of_no_use_here_keeps_its_keys_and_values_unread(
    tiny, kept, ask, read, damage, monkeypatch
):
    manifest = read_manifest(kept)
    state, refused = kept / manifest.state, SessionCorruptError
    if damage == "cut":
        state.write_bytes(state.read_bytes()[:-1])
    elif damage == "gone":
        state.unlink()
    else:
        refused = SessionMismatchError
    if damage == "newer":
        monkeypatch.setattr(manifests, "FORMAT", manifests.FORMAT + 1)
        manifest.write(kept)
        monkeypatch.undo()
    model = tiny.model(seed=5 if damage == "foreign" else 0)
    read.clear()
    with (
        Runtime.load(model, tokenizer=tiny.tokenizer, store=kept.parent) as runtime,
        pytest.raises(refused),
    ):
        ask(runtime, tiny.prompt(20))
    assert not [name for name in read if name.startswith("kv-")]


@pytest.mark.parametrize("pages", [None, 2**22])
def test_from_the_host(tiny, ask, pages):
    """It leaves the device last, too."""
    with Runtime.load(tiny.model(), tokenizer=tiny.tokenizer, kv_bytes=pages) as runtime:
        history = ask(runtime, tiny.prompt(120))
        session = runtime.sessions["a"]
        with session.held(None):
            session.park()
            left = list(session.parked.tensors)
            assert kinds(left) == ["kv", "memory"]
            taken = Taken(session.parked.tensors)
            session.parked = dataclasses.replace(session.parked, tensors=taken)
            session.wake(runtime.device)
        assert kinds(taken.names) == ["memory", "kv"]
        assert set(taken.names) == set(left)
        ask(runtime, [*history, 9])
