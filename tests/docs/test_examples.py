"""Every example in the documentation is run, and what it prints compared.

How to write one:

* ``python`` blocks of a page share a namespace and run in its scratch folder; an ``output`` block right
  after one is what it prints;
* ``KIND file=NAME`` is written to NAME in the page's scratch folder instead, whatever its kind; a block
  that holds blocks has four backticks or more;
* ``console`` blocks hold ``$ command`` lines, each followed by its output; ``bash`` blocks commands
  alone. They run in the scratch folder, with this environment's programs first in PATH;
* ``make ...`` is planned, not run (a page must not start the tests that run the page): the target must
  exist. What clones or installs is neither run nor planned;
* in an output, ``...`` stands for anything on its line, and alone on a line for any number of lines;
* every other kind (``text``, ``toml``) is shown as it is.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^(`{3,})([^\s`]+)([^\n]*)\n(.*?)^\1$", re.MULTILINE | re.DOTALL)
KINDS = {"python", "output", "console", "bash", "text", "toml", "json", "yaml", "markdown"}
SETUP = ("git clone ", "cd ", "pip install ", "python -m pip install ")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@dataclass(frozen=True)
class Block:
    """One fenced block: its kind, the rest of its first line, its text, and where it is."""

    kind: str
    argument: str
    text: str
    line: int


def blocks(page: str) -> list[Block]:
    return [
        Block(found[2], found[3].strip(), found[4], page.count("\n", 0, found.start()) + 1)
        for found in FENCE.finditer(page)
    ]


def agrees(expected: str, printed: str) -> bool:
    """Whether ``printed`` is ``expected``, read with its ``...`` wildcards."""
    lines = [re.escape(line).replace(r"\.\.\.", ".*") for line in expected.rstrip().split("\n")]
    pattern = "\n".join("(?:.*\n)*.*" if line == ".*" else line for line in lines)
    return re.fullmatch(pattern, printed.rstrip()) is not None


def check_output(block: Block, expected: str, printed: str) -> None:
    assert agrees(expected, printed), f"line {block.line}: expected\n{expected}\nprinted\n{printed}"


def run_python(block: Block, page: Path, namespace: dict[str, Any]) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        code = "\n" * block.line + block.text  # so that a traceback names the page's line
        exec(compile(code, str(page), "exec", dont_inherit=True), namespace)
    return printed.getvalue()


def run_command(command: str, folder: Path, block: Block) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"line {block.line}: {command}\n{done.stdout}{done.stderr}"
    return done.stdout


def run_console(block: Block, folder: Path) -> None:
    text = block.text if block.kind == "console" else re.sub(r"^(?=.)", "$ ", block.text, flags=re.M)
    for entry in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, expected = entry.partition("\n")
        if command.startswith("make"):
            run_command(f"make -n {command.removeprefix('make')}", ROOT, block)
        elif not command.startswith(SETUP):
            printed = run_command(command, folder, block)
            if expected.strip():
                check_output(block, expected, printed)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_examples_of(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("page")  # dataclasses look their module up
    monkeypatch.setitem(sys.modules, "page", module)
    namespace = vars(module)
    printed = ""
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")  # what a reader has in a clone
    monkeypatch.chdir(tmp_path)
    for block in blocks(page.read_text(encoding="utf-8")):
        assert block.kind in KINDS, f"line {block.line}: unknown kind {block.kind!r}"
        if block.argument.startswith("file="):
            (tmp_path / block.argument.removeprefix("file=")).write_text(block.text, encoding="utf-8")
        elif block.kind == "python":
            printed = run_python(block, page, namespace)
        elif block.kind == "output":
            check_output(block, block.text, printed)
        elif block.kind in ("console", "bash"):
            run_console(block, tmp_path)


def files_of(page: str, folder: Path) -> list[Path]:
    """Write the files of a page; which they are."""
    named = [
        block for block in blocks((ROOT / page).read_text("utf-8")) if block.argument.startswith("file=")
    ]
    paths = [folder / block.argument.removeprefix("file=") for block in named]
    for path, block in zip(paths, named, strict=True):
        path.write_text(block.text, encoding="utf-8")
    return paths


def test_the_package_of_a_selector_is_found(tmp_path: Path) -> None:
    """By its entry point, as when it is installed: what is read of that is written beside it."""
    files_of("docs/how-to/write-a-selector.md", tmp_path)
    here = Block("bash", "", "", 0)
    run_command("python -c 'import setuptools; setuptools.setup()' -q egg_info", tmp_path, here)
    found = json.loads(run_command("python -m sfi_agent plugins --json", tmp_path, here))
    assert found["problems"] == []
    assert ("blend", "my_selectors") in [(entry["name"], entry["plugin"]) for entry in found["selector"]]


@pytest.mark.parametrize(
    "page",
    ["CONTRIBUTING.md", *(f"docs/how-to/write-a-{kind}.md" for kind in ("selector", "boundary", "kernel"))],
)
def test_a_plugin_of_a_page_needs_no_pytest(page: str, tmp_path: Path) -> None:
    plugins = [
        path for path in files_of(page, tmp_path) if path.suffix == ".py" and "hookimpl" in path.read_text()
    ]
    assert plugins
    for path in plugins:
        run_command(
            f"python -c 'import sys; sys.modules[\"pytest\"] = None; import {path.stem}'", tmp_path,
            Block("bash", "", "", 0),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        ("a\nb", "a\nb\n", True),
        ("a\nb", "a\nc\n", False),
        ("1 of ... in ... s", "1 of 9 in 0.2 s", True),
        ("1 of ... s", "2 of 9 s", False),
        ("a\n...\nz", "a\nb\nc\nz", True),
        ("a\n...\nz", "a\nb\nc", False),
        ("a.c", "abc", False),
        ("", "anything", False),
    ],
)
def test_outputs_are_compared(expected: str, printed: str, same: bool) -> None:
    assert agrees(expected, printed) is same


def test_a_failing_command_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="line 7: exit 3"):
        run_console(Block("console", "", "$ exit 3\n", 7), tmp_path)


def test_a_missing_make_target_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="No rule to make target"):
        run_console(Block("bash", "", "make nothing\n", 7), tmp_path)


def test_a_wrong_output_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="line 7: expected"):
        run_console(Block("console", "", "$ echo a\nb\n", 7), tmp_path)
