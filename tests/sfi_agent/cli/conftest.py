"""A tiny checkpoint on disk, and the command run on it in this process."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sfi_agent.cli.app import run


@dataclass(frozen=True)
class Done:
    """What a command did."""

    status: int
    out: str
    err: str

    @property
    def object(self) -> dict[str, Any]:
        """The one JSON object that stdout holds."""
        assert (self.status, self.out.count("\n")) == (0, 1), self.err
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found

    @property
    def refusal(self) -> str:
        """The one line of an error; nothing else was printed."""
        assert self.status in (1, 2)
        assert self.out == ""
        assert self.err.count("\n") == 1
        assert self.err.startswith("error: ")
        return self.err


@pytest.fixture(scope="session")
def tiny_folder(tiny, tmp_path_factory) -> Path:
    """A checkpoint of a tiny Llama."""
    folder = tmp_path_factory.mktemp("cli") / "tiny"
    tiny.model().save_pretrained(folder)
    tiny.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def letters_folder(tiny, tmp_path_factory) -> Path:
    """One that writes the letters a to h alone, for as long as it is let, at any length of prompt."""
    folder = tmp_path_factory.mktemp("cli") / "letters"
    model = tiny.model(max_position_embeddings=200_000, eos_token_id=None)
    keep = tiny.tokenizer("abcdefgh")["input_ids"]
    others = [id for id in range(len(model.lm_head.weight)) if id not in keep]
    model.lm_head.weight.data[others] = 0
    model.save_pretrained(folder)
    tiny.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def sfi(monkeypatch, capsys, tmp_path):
    """``sfi("generate", ...)`` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    Path("prompt.txt").write_text("What is a heap?", encoding="utf-8")
    Path("text.txt").write_text("A heap is a tree. " * 20, encoding="utf-8")

    def call(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["sfi-agent", *map(str, arguments)])
        capsys.readouterr()
        status = run()
        return Done(status, *capsys.readouterr())

    return call
