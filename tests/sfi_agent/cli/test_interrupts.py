"""Ctrl-C and SIGTERM in a real process on a pseudo-terminal: in prefill, in decoding, at chat's prompt."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sfi_agent import SessionStore
from sfi_agent.cli import app, main

pty = pytest.importorskip("pty")
WAIT = 60
LONG = "x" * 16_000
READING = r"[1-9][0-9]*/16[0-9]{3}"
"""What the progress bar shows once a chunk of it was read."""
ANSWER = "[a-h]{9}"
FOREVER = ("--max-new-tokens", "90000")
CTRL_D = "\x04"
INTERRUPTED = "interrupted: what sessions have so far is kept; the command can be run again"
TERMINATED = INTERRUPTED.replace("interrupted", "terminated")


class Terminal:
    """A command whose three streams are one terminal, as a user has it."""

    def __init__(self, *arguments: object) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sfi_agent", *map(str, arguments)],
            stdin=theirs, stdout=theirs, stderr=theirs,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "160"},
            # A terminal's commands heed Ctrl-C, also where these tests run in the background.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        os.close(theirs)
        self.shown = ""

    def see(self, pattern: str) -> None:
        """Read until this was shown, and forget what came before it."""
        end = time.monotonic() + WAIT
        while (found := re.search(pattern, self.shown)) is None:
            assert time.monotonic() < end, f"no {pattern!r} in ...{self.shown[-300:]!r}"
            self._read()
        self.shown = self.shown[found.end() :]

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def sleeps(self) -> None:
        """Wait until the command waits: readline loses a signal that comes while it handles a key."""
        end = time.monotonic() + WAIT
        while Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":
            assert time.monotonic() < end, "it never waits"
            time.sleep(0.01)

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def terminate(self) -> None:
        self.process.terminate()

    def status(self) -> int:
        """Of the command, once it ends; what it shows until then is added to ``shown``."""
        end = time.monotonic() + WAIT
        while self._read() or self.process.poll() is None:
            assert time.monotonic() < end, f"it goes on after ...{self.shown[-300:]!r}"
        return self.process.returncode

    def close(self) -> None:
        self.process.kill()
        self.process.wait(WAIT)
        os.close(self._ours)

    def _read(self) -> bool:
        """Add what is shown within a second; whether there was anything."""
        if not select.select([self._ours], [], [], 1)[0]:
            return False
        try:
            self.shown += os.read(self._ours, 4096).decode(errors="replace")
        except OSError:  # the other end is closed
            return False
        return True


@pytest.fixture
def terminal() -> Iterator[type[Terminal]]:
    """``terminal(...)`` starts a command, which ends with the test."""
    started: list[Terminal] = []

    def start(*arguments: object) -> Terminal:
        started.append(Terminal(*arguments))
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.mark.parametrize(
    ("prompt", "sign", "json"),
    [(LONG, READING, ()), (LONG, READING, ("--json",)), ("Hello", ANSWER, ())],
    ids=["prefill", "prefill-json", "decode"],
)
def test_generate(terminal, letters_folder, tmp_path, prompt, sign, json):
    file = tmp_path / "prompt.txt"
    file.write_text(prompt, encoding="utf-8")
    command = terminal(
        "generate", "--prompt-file", file, "--model", letters_folder, "--max-new-tokens", 90_000, *json
    )
    command.see(sign)
    command.interrupt()
    assert command.status() == 130
    assert command.shown.rstrip().endswith(INTERRUPTED)
    assert "Traceback" not in command.shown


@pytest.mark.parametrize("sign", ["reading", READING], ids=["before", "in-prefill"])
def test_chat_goes_on(terminal, letters_folder, sign):
    """Ctrl-C ends the answer and not the conversation, what was read stays; at the prompt it ends both."""
    chat = terminal("chat", "--model", letters_folder, *FOREVER, "--system", LONG)
    chat.see("you> ")
    chat.type("one\n")
    chat.see(sign)
    chat.interrupt()
    chat.see("stopped before the first token; the question is forgotten")
    for question in ("two", "three"):
        chat.see("you> ")
        chat.type(f"{question}\n")
        chat.see(ANSWER)
        chat.interrupt()
        chat.see(" prompt tokens reused")
        assert "Traceback" not in chat.shown
    chat.see("you> ")
    if sign == "reading":
        chat.type(CTRL_D)
        assert chat.status() == 0
        return
    chat.type("half a line")
    chat.see("half a line")
    chat.sleeps()
    chat.interrupt()
    assert chat.status() == 130
    assert chat.shown.rstrip().endswith(INTERRUPTED)


def test_a_terminated_command_keeps_its_session(terminal, letters_folder, tmp_path):
    file, trace, store = tmp_path / "prompt.txt", tmp_path / "trace.html", tmp_path / "store"
    file.write_text("Hello", encoding="utf-8")
    command = terminal(
        "generate", "--prompt-file", file, "--model", letters_folder, *FOREVER,
        "--session", "a", "--store", store, "--trace", trace,
    )  # fmt: skip
    command.see(ANSWER)
    command.terminate()
    assert command.status() == 143
    assert command.shown.rstrip().endswith(TERMINATED)
    assert "Traceback" not in command.shown
    assert SessionStore(store).inspect("a").tokens > len("Hello")
    assert trace.exists()


def test_a_terminated_chat_ends_and_goes_on_later(terminal, letters_folder, tmp_path):
    """At the prompt, then in an answer, which Ctrl-C alone would end."""
    kept = ("--session", "a", "--store", tmp_path, "--model", letters_folder)
    chat = terminal("chat", *kept, "--max-new-tokens", 20)
    chat.see("you> ")
    chat.type("one\n")
    chat.see(" prompt tokens reused")
    chat.see("you> ")
    chat.sleeps()
    chat.terminate()
    assert chat.status() == 143
    assert chat.shown.rstrip().endswith(TERMINATED)
    chat = terminal("chat", *kept, *FOREVER)
    chat.see("you> ")
    chat.type("two\n")
    chat.see(ANSWER)
    chat.terminate()
    assert chat.status() == 143
    assert "Traceback" not in chat.shown
    assert SessionStore(tmp_path).inspect("a").turns == 2


def test_another_ctrl_c_ends_the_process_at_once(monkeypatch, capsys):
    """While Python ends, for half a second where torch is loaded, the exception would be one in vain."""

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "run", interrupted)
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as ended:
            main()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended.value.code == 130
    assert capsys.readouterr().err == f"{INTERRUPTED}\n"


def test_what_is_shown_stays_on_the_screen(terminal, letters_folder, tmp_path):
    """A progress bar that lives on beside the answer erases it: nothing is erased once text is shown."""
    file = tmp_path / "prompt.txt"
    file.write_text("Hello", encoding="utf-8")
    command = terminal("generate", "--prompt-file", file, "--model", letters_folder, "--max-new-tokens", 40)
    command.see(ANSWER)
    assert command.status() == 0
    assert "40 tokens (length)" in command.shown
    assert "\x1b[2K" not in command.shown
    assert "\x1b[1A" not in command.shown
