"""The commands, from a new page to a check, on a tiny checkpoint; a mistake is one line."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from sfi_agent.cli import main
from sfi_agent.experiments.page import read_page
from sfi_agent.trace import Trace

MEND = "run: sfi-agent experiment run PAGE (or `render` where only the drawing changed)"


@pytest.fixture
def command(tmp_path, tiny, monkeypatch, capsys):
    """``command(*arguments)``: exit status, stdout and stderr, in a folder with a checkpoint."""
    monkeypatch.chdir(tmp_path)
    tiny.model().save_pretrained("checkpoint")
    tiny.tokenizer.save_pretrained("checkpoint")
    capsys.readouterr()

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["sfi-agent", "experiment", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        said = capsys.readouterr()
        return stopped.value.code or 0, said.out, said.err

    return run


@pytest.fixture
def page(command, tmp_path):
    """A new page, cut down to the tiny model."""
    assert command("new", "my-question") == (0, "wrote docs/experiments/my-question.md\n", "")
    path = tmp_path / "docs/experiments/my-question.md"
    text = path.read_text().replace("smollm2-135m", "./checkpoint")
    text = text.replace("context: 2000", "context: 60").replace("decode: 256", "decode: 12")
    path.write_text(text.replace("{repair: true}", "{dense_below: 0}").replace("[prose, code]", "[prose]"))
    return path


def test_a_new_page_explains_itself_and_runs(command, page):
    name = str(page.relative_to(page.parents[2]))
    text = page.read_text()
    assert "# My question\n" in text
    assert f"sfi-agent experiment run {name}\n" in text
    assert read_page(page)[1].question.endswith("?")
    unrun = f"{name}: my-question.md has not been run: there is no my-question.json\n"
    assert command("run", "--check", name) == (1, unrun, f"error: {MEND}\n")
    status, out, err = command("run", name, "--device", "cpu", "--dtype", "float32")
    assert (status, out) == (0, f"{name}: 6 of 6 measured\n")
    assert err.count(" s\n") == 6
    assert "my-question-frontier.svg" in err
    assert command("run", "--check", name) == (0, f"{name}: 6 of 6 measured\n", "")


def test_the_turns_of_a_run_can_be_traced(command, page):
    status, out, err = command("run", str(page), "--only", "recent", "--trace", "out.html")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert (
        "measure fidelity reads texts and decodes no turn to trace; name a page of measure drafts or" in err
    )
    drafts = page.read_text().replace("measure: fidelity", "measure: drafts").replace("[frontier]", "[]")
    page.write_text(re.sub(r"^compare:.*\n(  .*\n)*", "", drafts, flags=re.MULTILINE))
    status, _, err = command("run", str(page), "--only", "recent", "--trace", "out.html")
    assert status == 0
    assert err.endswith("wrote out.html\n")
    written = Path("out.html").read_text().partition('id="trace">')[2].partition("</script>")[0]
    trace = Trace.model_validate_json(written)
    assert trace.model == "./checkpoint"
    assert {turn.mode for turn in trace.turns} == {"dense", "verified"}


def test_list(command, page):
    (page.parent / "notes.md").write_text("# Notes, no experiment\n")
    status, out, _ = command("list")
    assert (status, out.count("\n")) == (0, 1)
    assert "not run yet" in out
    command("run", str(page), "--only", "recent")
    (row,) = json.loads(command("list", "--json")[1])["experiments"]
    assert (row["asked"], row["measured"], row["measure"]) == (6, 3, "fidelity")


def test_a_broken_page_is_named_and_the_others_are_listed(command, page):
    broken = page.with_name("broken.md")
    broken.write_text(page.read_text().replace("measure: fidelity", "measure: fidelty"))
    status, out, err = command("list")
    assert (status, err) == (0, "")
    wrong, good = out.splitlines()
    name = str(broken.relative_to(page.parents[2]))
    assert wrong.startswith(f"{name}: cannot be run: unknown measurement 'fidelty'; known: ")
    assert good.endswith("not run yet")
    listed = json.loads(command("list", "--json")[1])
    assert [row["measure"] for row in listed["experiments"]] == ["fidelity"]
    assert [row["page"] for row in listed["broken"]] == [name]


def test_a_failing_check_says_what_and_how_to_mend_it(command, page):
    command("run", str(page), "--only", "recent")
    status, out, err = command("run", "--check", str(page))
    assert status == 1
    assert "has no record of prose: snapkv budget=0.0625, " in out
    assert err == f"error: {MEND}\n"


def test_render_needs_no_model(command, page, tmp_path):
    command("run", str(page))
    drawn = page.with_name("my-question-frontier.svg")
    text = drawn.read_text()
    drawn.unlink()
    (tmp_path / "checkpoint/model.safetensors").unlink()
    assert command("render", str(page))[0] == 0
    assert drawn.read_text() == text


def test_a_run_without_matplotlib_keeps_its_results(command, page, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("sfi_agent.experiments.plots.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    status, _, err = command("run", str(page))
    assert status == 1
    assert "plots need matplotlib: pip install 'sfi-agent[docs]'" in err.splitlines()[-1]
    assert len(json.loads(page.with_suffix(".json").read_text())["records"]) == 6


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run", "PAGE", "--dtype", "bfloat16"], "is about dtype float32"),
        (["run", "PAGE", "--only", "papr"], "unknown policy of the page 'papr'; known: recent"),
        (["run", "PAGE", "--device", "gpu"], "device: must be auto, cpu, cuda"),
        (["run", "nowhere.md"], "cannot read page nowhere.md"),
        (["run", "--check", "checkpoint/config.json"], "has no front matter"),
        (["render", "nowhere.md"], "cannot read page"),
        (["new", "my-question"], "exists; choose another name"),
        (["new", "My Question"], "lower-case words joined by hyphens"),
        (
            ["list", "--folder", "nowhere"],
            "nowhere is no folder; run it in a clone, where pages are, or name their folder with --folder",
        ),
    ],
)
def test_a_mistake_is_one_line(command, page, arguments, told):
    status, out, err = command(*[str(page) if argument == "PAGE" else argument for argument in arguments])
    assert (status, out) == (1, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert told in err
