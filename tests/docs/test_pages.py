"""The pages themselves: generated ones up to date, links that lead somewhere, no stubs."""

from __future__ import annotations

import inspect
import re
import runpy
from pathlib import Path

import pytest

from sfi_agent import environment, errors, hookspecs
from sfi_agent.experiments.document import FRONT

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
GENERATED = runpy.run_path(str(DOCS / "generate.py"))["pages"]()
LINK = re.compile(r"\]\(([^)\s]+)\)")
HOOKS = [name for name in vars(hookspecs) if name.startswith("sfi_")]


def links(page: Path) -> list[str]:
    """Link targets within the repository."""
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"^(`{3,}).*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)
    return [target for target in LINK.findall(text) if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """What the headings of a page can be linked by."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", GENERATED, ids=lambda page: page.name)
def test_a_generated_page_says_what_the_code_says(page: Path) -> None:
    assert page.read_text(encoding="utf-8") == GENERATED[page], "run: make docs"


def test_the_tree_of_errors_is_that_of_the_classes() -> None:
    kinds = [
        kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, errors.SFIError)
    ]
    drawn, path = [], {}
    for branch, name in re.findall(r"^    ([ │├└─]*)(\w+Error)\b", str(errors.__doc__), re.MULTILINE):
        path[len(branch)] = name
        drawn.append((name, path.get(len(branch) - 4)))
    top, *others = kinds
    assert drawn == [(top.__name__, None), *((kind.__name__, kind.__bases__[0].__name__) for kind in others)]


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_is_documented_with_its_exact_signature(name: str) -> None:
    source = inspect.getsource(getattr(hookspecs, name))
    signature = re.search(r"def (.*):$", source, re.MULTILINE)
    assert signature
    assert f"```text\n{signature[1]}\n```" in (DOCS / "reference/hooks.md").read_text(encoding="utf-8")


VARIABLES = sorted(set(re.findall(r"\bSFI_[A-Z_]+", str(environment.Environment.__doc__))))


@pytest.mark.parametrize("name", [*VARIABLES, "session_id", "on_progress"])
def test_what_a_reader_may_set_is_on_a_page(name: str) -> None:
    assert any(name in page.read_text(encoding="utf-8") for page in DOCS.rglob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_installs_can_be_installed(page: Path) -> None:
    """sfi-agent is on no index: from a clone, at the versions that are tested."""
    installed = re.findall(r"pip install [^\n`]*", page.read_text(encoding="utf-8"))
    assert [line for line in installed if "sfi-agent" in line] == []


def test_every_page_can_be_reached_from_the_index() -> None:
    reached, waiting = set(), {DOCS / "index.md"}
    while waiting:
        page = waiting.pop()
        reached.add(page)
        near = {(page.parent / link.partition("#")[0]).resolve() for link in links(page)}
        waiting |= {path for path in near if path.suffix == ".md" and path.is_relative_to(DOCS)} - reached
    assert reached == set(DOCS.rglob("*.md"))


@pytest.mark.parametrize("page", PAGES[3:], ids=lambda page: page.name)
def test_no_page_is_a_stub(page: Path) -> None:
    text = FRONT.sub("", page.read_text(encoding="utf-8")).lstrip()
    assert text.startswith("# ")
    assert len(text.split()) > 30
    assert not re.search(r"\b(TODO|TBD|FIXME|lorem)\b", text)
