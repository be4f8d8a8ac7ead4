"""The map of the code names every module of the runtime and the store, and nothing that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/explanation/code-map.md").read_text(encoding="utf-8")
SECTIONS = {part.partition("\n")[0]: part for part in PAGE.split("\n## ")[1:]}
RUNTIME, STORE = ROOT / "sfi_agent/runtime", ROOT / "sfi_agent/store"
HOMES = {"The runtime": RUNTIME, "The store": STORE}
"""Folders of which a section's tables name every module."""
PATH = re.compile(r"`([\w./]+(?:\.py|/))`")
NAME = re.compile(r"`([A-Z]\w*[a-z]\w*)(?:\.(\w+))?`")
"""A class, or a member of one."""
SOURCES = "\n".join(path.read_text(encoding="utf-8") for path in sorted(RUNTIME.glob("*.py")))


@pytest.mark.parametrize("section", HOMES)
def test_every_module_is_in_a_table(section: str) -> None:
    rows = [line for line in SECTIONS[section].splitlines() if line.startswith("| ")]
    modules = {path.name for path in HOMES[section].glob("*.py")} - {"__init__.py"}
    assert modules - {name for row in rows for name in PATH.findall(row)} == set()


def test_every_path_exists() -> None:
    named = [
        (HOMES.get(section, RUNTIME), name)
        for section, text in SECTIONS.items()
        for name in PATH.findall(text)
    ]
    assert len(named) > 100
    assert [name for home, name in named if not ((ROOT if "/" in name else home) / name).exists()] == []


def test_every_class_and_member_exists() -> None:
    named = set(NAME.findall(PAGE))
    assert len(named) > 20
    for kind, member in named:
        body = re.search(rf"^class {kind}\b.*?(?=^\S|\Z)", SOURCES, re.MULTILINE | re.DOTALL)
        assert body, kind
        assert not member or f"    def {member}(" in body[0], f"{kind}.{member}"
