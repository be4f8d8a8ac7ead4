"""``--store`` and ``sfi-agent sessions``: a conversation over several commands."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from sfi_agent.runtime.engine import Engine


@pytest.fixture
def generate(sfi, tiny_folder):
    def call(text: str, session: str = "a", *more: object):
        Path("prompt.txt").write_text(text, encoding="utf-8")
        return sfi("generate", "--prompt-file", "prompt.txt", "--raw", "--model", tiny_folder,
                   "--session", session, "--store", "kept", "--max-new-tokens", 6, "--mode", "dense",
                   "--json", *more)  # fmt: skip

    return call


def test_generate_goes_on_in_another_command(sfi, generate):
    first = generate("A heap is a tree.").object
    second = generate("A heap is a tree. A leaf is a node.").object
    assert first["reused_tokens"] == 0
    assert second["reused_tokens"] == len("A heap is a tree.")
    (listed,) = sfi("sessions", "list", "--store", "kept", "--json").object["sessions"]
    assert (listed["id"], listed["turns"], listed["mode"]) == ("a", 2, "dense")


def test_a_store_needs_a_session(sfi, tiny_folder):
    call = ("generate", "--prompt-file", "prompt.txt", "--model", tiny_folder, "--store", "kept")
    assert "--session" in sfi(*call).refusal


def test_a_store_that_cannot_be_is_one_line(sfi, tiny_folder):
    Path("prompt.txt").write_text("A heap is a tree.")
    call = ("generate", "--prompt-file", "prompt.txt", "--raw", "--model", tiny_folder, "--session", "a")
    assert "prompt.txt is a file; name a folder" in sfi(*call, "--store", "prompt.txt").refusal


@pytest.fixture
def chat(sfi, tiny_folder, monkeypatch):
    def call(*lines: str, session: str = "c", more: tuple[str, ...] = (), store=("--store", "kept")):
        stdin = io.TextIOWrapper(io.BytesIO("\n".join([*lines, ""]).encode()), encoding="utf-8")
        monkeypatch.setattr(sys, "stdin", stdin)
        return sfi("chat", "--model", tiny_folder, *store, "--session", session,
                   "--max-new-tokens", 5, "--mode", "dense", "--json", *more)  # fmt: skip

    return call


def test_chat_goes_on_in_another_command(chat):
    (first,) = chat("What is a heap?").object["turns"]
    (second,) = chat("And a leaf?").object["turns"]
    assert second["prompt_tokens"] > first["prompt_tokens"] + first["completion_tokens"]
    assert second["reused_tokens"] == 1 + len("user: What is a heap?\n"), "as far as the template agrees"


def test_a_named_chat_that_is_not_kept_says_so(chat):
    told = "session '[c]' ends with this command; to keep it, give --store FOLDER as well\n"
    assert chat("Hello", session="[c]", store=()).err == told
    assert chat("Hello", session="chat", store=()).err == ""
    assert chat("Hello", session="[c]").err == ""


def test_chat_replaces_no_history_that_is_not_its_own(sfi, generate, chat):
    generate("A heap is a tree.")
    assert "session 'a' was not begun by chat" in chat("Hello", session="a").refusal
    assert sfi("sessions", "list", "--store", "kept", "--json").object["sessions"][0]["turns"] == 1


def test_generate_replaces_no_history_of_a_chat(sfi, generate, chat):
    chat("Hello", session="a")
    assert "session 'a' is chat's" in generate("A heap is a tree.").refusal
    assert sfi("sessions", "list", "--store", "kept", "--json").object["sessions"][0]["turns"] == 1


def test_a_chat_that_was_stopped_before_its_first_answer_goes_on(sfi, chat, monkeypatch):
    def interrupted(self, jobs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Engine, "step", interrupted)
        (stopped,) = chat("What is a heap?").object["turns"]
    assert stopped["completion_tokens"] == 0
    assert sfi("sessions", "list", "--store", "kept", "--json").object["sessions"][0]["tokens"] > 0
    assert len(chat("What is a heap?", more=("--system", "Be brief.")).object["turns"]) == 1


def test_a_chat_keeps_its_system_message(chat):
    brief, long = ("--system", "Be brief."), ("--system", "Be long.")
    assert chat("What is a heap?", more=brief).object["turns"]
    assert chat("And a leaf?", more=brief).object["turns"]
    assert chat("And a root?").object["turns"]
    assert "session 'c' did not begin with this --system" in chat("And a node?", more=long).refusal


def test_every_command(sfi, generate):
    generate("A heap is a tree.")
    store = ("--store", "kept")
    assert sfi("sessions", "inspect", "a", *store, "--json").object["turns"] == 1
    assert sfi("sessions", "fork", "a", "b", *store, "--json").object["id"] == "b"
    assert sfi("sessions", "export", "b", "b.session", *store, "--json").object["id"] == "b"
    assert sfi("sessions", "delete", "b", *store, "--json").object == {"deleted": "b"}
    assert sfi("sessions", "import", "b.session", "--id", "c", *store, "--json").object["id"] == "c"
    listed = sfi("sessions", "list", *store, "--json").object["sessions"]
    assert {info["id"] for info in listed} == {"a", "c"}
    assert generate("A heap is a tree.", "c").object["reused_tokens"] == len("A heap is a tree.") - 1


def test_what_people_read(sfi, generate):
    generate("A heap is a tree.")
    store = ("--store", "kept")
    assert sfi("sessions", "list", *store).out.startswith("a: 1 turn, 23 tokens")
    assert "2 files, all whole" in sfi("sessions", "inspect", "a", *store).out
    assert sfi("sessions", "fork", "a", "b [red]", *store).out == "a is stored as b [red] as well\n"
    assert sfi("sessions", "export", "a", "f", *store).out == "a is in f, readable by you only\n"
    assert sfi("sessions", "delete", "a", *store).out == "a is deleted\n"
    assert sfi("sessions", "import", "f", *store).out == "a is stored\n"
    assert sfi("sessions", "fork", "a", "b\x1b[2J", *store).out == "a is stored as b?[2J as well\n"
    assert "\x1b" not in sfi("sessions", "list", *store).out
    Path("empty").mkdir()
    assert sfi("sessions", "list", "--store", "empty").out == "no sessions in empty\n"


def test_refusals_are_one_line(sfi, generate, tiny, tmp_path):
    store = ("--store", "kept")
    for call in (("inspect", "x"), ("fork", "x", "y"), ("export", "x", "f"), ("delete", "x")):
        assert "no session 'x' is stored in kept" in sfi("sessions", *call, *store).refusal
    assert "no file" in sfi("sessions", "import", "f", *store).refusal
    assert ". is a folder; name the file" in sfi("sessions", "import", ".", *store).refusal
    for folder in ("nowhere", "prompt.txt"):
        assert f"{folder} is no folder" in sfi("sessions", "list", "--store", folder).refusal
    assert "prompt.txt is a file" in sfi("sessions", "inspect", "x", "--store", "prompt.txt").refusal
    generate("A heap is a tree.")
    generate("A heap is a tree.", "taken")
    assert "stored already" in sfi("sessions", "fork", "a", "taken", *store).refusal
    (state,) = Path("kept").glob("a-*/state-*")
    state.write_bytes(b"x")
    assert "session 'a' is damaged" in sfi("sessions", "inspect", "a", *store).refusal
    assert "session 'a' is damaged" in generate("A heap is a tree.").refusal
    other = tmp_path / "other"
    tiny.model(seed=9).save_pretrained(other)
    tiny.tokenizer.save_pretrained(other)
    generate("A heap is a tree.", "b")
    assert "another weights" in generate("A heap is a tree.", "b", "--model", other).refusal
    damaged = next(Path("kept").glob("b-*/manifest.json"))
    damaged.write_text(json.dumps({"format": 9}))
    assert "damaged" in sfi("sessions", "inspect", "b", *store).refusal
    assert "changed" in sfi("sessions", "list", *store).out


def test_a_session_that_cannot_be_stored_is_one_line(letters_folder, tmp_path):
    resource = pytest.importorskip("resource")
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Hello", encoding="utf-8")
    command = [sys.executable, "-m", "sfi_agent", "generate", "--max-new-tokens", "9", "--session", "a"]
    done = subprocess.run(
        [*command, "--prompt-file", prompt, "--model", letters_folder, "--store", tmp_path / "store"],
        # The system takes 100 bytes of each file and no more, as a disk does that is full.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, len(done.stdout)) == (1, len("abcdefghi\n"))
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: session 'a' was not saved in ")
    assert "File too large; nothing of it is stored. Make room or choose another folder" in line
