"""``sfi-agent eval suite``: one object or some tables, and one line for a mistake."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from sfi_agent.cli import main

SMALL = (
    "--context",
    "300",
    "--decode-tokens",
    "8",
    "--answer-tokens",
    "8",
    "--lengths",
    "900",
    "--samples",
    "1",
)


@pytest.fixture(scope="module")
def checkpoint(tiny, tmp_path_factory):
    """A tiny model as a folder."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny.model(max_position_embeddings=4096).save_pretrained(folder)
    tiny.tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def run(checkpoint, monkeypatch):
    """``run(option, ...)``: the command on the tiny model."""

    def command(*options: str) -> None:
        monkeypatch.setattr(sys, "argv", ["sfi-agent", "eval", "suite", "--model", checkpoint, *options])
        with pytest.raises(SystemExit) as exit:
            main()
        assert exit.value.code == 0

    return command


def test_json_is_one_object_and_nothing_else(run, capsys):
    run(*SMALL, "--tasks", "fidelity, single_needle", "--budget", "0.25", "--selector", "recent", "--json")
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert printed.err == ""
    assert (found["policy"]["budget"], found["policy"]["selector"]) == (0.25, "recent")
    assert found["sizes"] == {"context": 300, "decode": 8, "answer": 8, "lengths": [900], "samples": 1}
    assert set(found["fidelity"]) == {"prose", "code", "json", "chat"}
    assert [of["task"] for of in found["retrieval"]] == ["single_needle"]
    assert found["answers"] == {}


def test_people_get_tables(run, capsys):
    run(*SMALL, "--context", "2100", "--budget", "40")
    printed = capsys.readouterr().out
    for title in ("Fidelity", "Answers", "Drafts", "Tool calls: 1 asked for", "Retrieval"):
        assert title in printed
    assert printed.count("multi_key") == 1
    assert f"float32 on {'cuda' if torch.cuda.is_available() else 'cpu'}" in printed


def test_quick_fits_a_small_model(run, capsys):
    run("--quick", "--tasks", "fidelity", "--json")
    assert json.loads(capsys.readouterr().out)["sizes"]["context"] == 992


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--tasks", "fidelity,poems"), "unknown task 'poems'; known: aggregation, answers"),
        (("--tasks", ","), "tasks: name at least one of "),
        (("--lengths", "1k"), "lengths: must be numbers of tokens separated by commas (given '1k')"),
        (("--lengths", ""), "separated by commas (given '')"),
        (("--context", "5000"), "but the model's window is 4096"),
        (("--selector", "psychic", *SMALL), "unknown selector 'psychic'"),
    ],
)
def test_a_mistake_is_one_line(checkpoint, monkeypatch, capsys, options, says):
    monkeypatch.setattr(sys, "argv", ["sfi-agent", "eval", "suite", "--model", checkpoint, *options])
    with pytest.raises(SystemExit) as exit:
        main()
    printed = capsys.readouterr()
    assert exit.value.code == 1
    assert printed.out == ""
    assert says in printed.err
    assert printed.err.count("\n") == 1
