"""What must not be committed, and the commands that the house promises."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOME = re.compile(r"(?<![\w.~<-])/(?:work|root|home|Users)/\w")
"""A path of somebody's machine."""


def texts(files: list[Path]) -> list[tuple[Path, str]]:
    return [
        (file.relative_to(ROOT), file.read_text(encoding="utf-8"))
        for file in files
        if file.suffix != ".png" and file != Path(__file__)
    ]


def test_no_file_names_a_path_of_somebodys_machine(files: list[Path]) -> None:
    found = [(file, hit.group()) for file, text in texts(files) for hit in HOME.finditer(text)]
    assert found == []


@pytest.mark.parametrize("path", ["/work/shared", "see /root/x", '"/home/me/.cache"', "=/Users/me"])
def test_such_a_path_would_be_found(path: str) -> None:
    assert HOME.search(path)


@pytest.mark.parametrize("path", ["/workload", "~/root/x", "homework/x", "tests/home/x"])
def test_other_paths_are_let_be(path: str) -> None:
    assert not HOME.search(path)


def test_no_file_has_merge_marks_or_is_a_dump(files: list[Path]) -> None:
    for file, text in texts(files):
        assert not re.search(r"^(<{7}|>{7}) ", text, re.MULTILINE), file
    assert [file for file in files if file.stat().st_size > 500_000] == []


@pytest.mark.parametrize("target", ["demo", "test", "check", "bench", "docs", "clean", "help"])
def test_make_has_the_target_and_says_what_it_does(target: str) -> None:
    planned = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert planned.returncode == 0, planned.stderr
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.search(rf"^{target} +\S", listed, re.MULTILINE)


def test_make_says_in_one_breath_that_python_is_missing(tmp_path: Path) -> None:
    command = ["make", "demo", "PYTHON=/nowhere/python3", f"VENV={tmp_path}/venv"]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert made.returncode != 0
    assert made.stderr.startswith("sfi-agent needs Python 3.11 or newer with venv and pip")
    assert not (tmp_path / "venv").exists()
