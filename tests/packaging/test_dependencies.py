"""Every dependency has a reason, and every version that make installs is pinned."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PLATFORM = re.compile(r"nvidia-|cuda-|triton$")
"""What torch brings for a GPU: it follows torch's own pins."""


def pins() -> dict[str, str]:
    lines = (ROOT / "requirements/constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def declared(project: dict[str, Any]) -> set[str]:
    """Names that pyproject.toml asks for, in dependencies and extras, itself aside."""
    extras = project["project"]["optional-dependencies"].values()
    wanted = [*project["project"]["dependencies"], *(line for extra in extras for line in extra)]
    return {canonicalize_name(Requirement(line).name) for line in wanted} - {"sfi-agent"}


def closure(roots: set[str]) -> set[str]:
    """The roots and all that they need on this machine."""
    found: set[str] = set()
    waiting = set(roots)
    while waiting:
        name = waiting.pop()
        if name in found or PLATFORM.match(name):
            continue
        found.add(name)
        waiting |= {canonicalize_name(need.name) for need in _needs(name)}
    return found


def _needs(name: str) -> list[Requirement]:
    try:
        needs = [Requirement(line) for line in requires(name) or ()]
    except PackageNotFoundError:  # a linter, where only the tests are installed
        return []
    return [need for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]


def test_every_dependency_is_explained(project: dict[str, Any]) -> None:
    page = (ROOT / "docs/explanation/dependencies.md").read_text(encoding="utf-8")
    explained = re.findall(r"^\| `([^`]+)` \| (.*\S.*) \|$", page, re.MULTILINE)
    assert {canonicalize_name(name) for name, reason in explained} == declared(project)


def test_all_that_is_needed_is_pinned(project: dict[str, Any]) -> None:
    pinned = {canonicalize_name(name) for name in pins()}
    assert closure(declared(project)) - pinned == set()
    assert not any(PLATFORM.match(name) for name in pinned)


def test_the_pins_lie_in_the_declared_ranges(project: dict[str, Any]) -> None:
    pinned = {canonicalize_name(name): version for name, version in pins().items()}
    for line in project["project"]["dependencies"]:
        wanted = Requirement(line)
        assert wanted.specifier.contains(pinned[canonicalize_name(wanted.name)]), line


def test_the_pins_are_plain_and_sorted() -> None:
    names = list(pins())
    assert names == sorted(names, key=str.lower)
    assert not any("+" in version for version in pins().values())
