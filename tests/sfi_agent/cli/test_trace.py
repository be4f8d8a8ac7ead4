"""``--trace`` of the commands that decode."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest

from sfi_agent.cli import tracing
from sfi_agent.errors import SettingError
from sfi_agent.trace import Trace


def of(page: Path) -> Trace:
    text = page.read_text(encoding="utf-8").partition('id="trace">')[2].partition("</script>")[0]
    return Trace.model_validate_json(text)


def test_generate_writes_the_page_beside_the_same_answer(sfi, tiny_folder):
    call = (
        "generate",
        "--prompt-file",
        "prompt.txt",
        "--model",
        tiny_folder,
        "--max-new-tokens",
        9,
        "--json",
    )
    found = sfi(*call, "--trace", "out.html", "--session", "s")
    assert found.object["token_ids"] == sfi(*call).object["token_ids"]
    assert found.err == "wrote out.html\n"
    trace = of(Path("out.html"))
    assert trace.model == str(tiny_folder)
    (turn,) = trace.turns
    assert (turn.session, [token.id for token in turn.tokens]) == ("s", found.object["token_ids"])


def test_chat_writes_all_turns_of_the_session(sfi, tiny_folder, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"One.\nTwo.\n")))
    done = sfi("chat", "--model", tiny_folder, "--max-new-tokens", 5, "--trace", "out.html", "--json")
    turns = of(Path("out.html")).turns
    assert [[token.id for token in turn.tokens] for turn in turns] == [
        turn["token_ids"] for turn in done.object["turns"]
    ]
    assert turns[1].reused_tokens > 0


@pytest.mark.parametrize("command", ["generate", "chat", "experiment"])
def test_a_folder_that_is_not_there_is_refused_at_once(sfi, tiny_folder, command):
    calls = {
        "generate": ("generate", "--prompt-file", "prompt.txt", "--model", tiny_folder),
        "chat": ("chat", "--model", tiny_folder),
        "experiment": ("experiment", "run", "page.md"),
    }
    for file in ("nowhere/out.html", "."):
        refusal = sfi(*calls[command], "--trace", file).refusal
        assert f"--trace {file}: name a file in a folder that exists" in refusal


def test_a_file_that_cannot_be_written_is_refused_at_once(monkeypatch, tmp_path):
    """Before a model is loaded; asked of the system, for root may write wherever a mode forbids it."""
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(SettingError, match="cannot be written; name a file in a folder of yours"):
        tracing.check(tmp_path / "out.html")


def test_without_bokeh_one_line_says_what_to_install(sfi, tiny_folder, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "bokeh"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "sfi_agent.trace.figures", raising=False)
    monkeypatch.setitem(sys.modules, "bokeh", None)
    call = ("generate", "--prompt-file", "prompt.txt", "--model", tiny_folder, "--trace", "out.html")
    assert "pip install 'sfi-agent[eye]'" in sfi(*call).refusal
