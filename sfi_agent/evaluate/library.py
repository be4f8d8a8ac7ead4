"""Text that every Python brings along: what its standard library says, and how it is written.

Nothing is imported to be read, so a module with side effects has none here. The texts are the same on
every machine with the same version of Python.
"""

from __future__ import annotations

import ast
import inspect
import re
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import TypeVar

from sfi_agent.errors import PromptError

T = TypeVar("T")

GOLDEN = 0.6180339887498949
"""Its multiples, less their whole part, lie far from each other however many there are."""
MIN_WORDS = 8
"""A paragraph of fewer words is a heading, a signature or a list entry."""
SYMBOLS = re.compile(r"[=(){}\[\]<>|\\_@#*`^$%~+]")
MOST_SYMBOLS = 0.05
"""Share of a paragraph's characters above which it is code, grammar or a table."""
NOT_PROSE = re.compile(r"^\s*(>>>|\.\.\.|\||\+--|---|===|\.\. |:\w+:|#)|::=", re.MULTILINE)
FOREIGN = (
    "site-packages", "dist-packages", "encodings", "ensurepip", "idlelib", "lib2to3", "pydoc_data",
    "turtledemo",
)  # fmt: skip
"""Folders whose modules are not the library's, are programs of their own, or hold tables."""
SENTENCE = re.compile(r"^[\"'“‘]?[A-Z].*[.:?!)”’\"]$", re.DOTALL)


@dataclass(frozen=True)
class Definition:
    """A documented module, class or function of the standard library.

    Attributes:
        name: with its module, as in ``textwrap.fill``.
        signature: a function's parameters as in its source; None for a module or class.
        paragraphs: the prose of its docstring.
    """

    name: str
    signature: str | None
    paragraphs: tuple[str, ...]


def prose(start: float = 0.0) -> Iterator[str]:
    """Paragraphs of English, no two the same: the language reference, then the modules' docstrings.

    Args:
        start: where to begin in the reference, as a share of it in [0, 1); what comes before follows
            its end.
    """
    seen: set[str] = set()
    docs = (text for found in definitions() for text in found.paragraphs)
    for text in chain(turned(reference(), start), docs):
        if text not in seen:
            seen.add(text)
            yield text


@lru_cache(maxsize=1)
def reference() -> tuple[str, ...]:
    """The prose paragraphs of the language reference that ``help()`` shows, each on one line.

    Its topics quote each other at length, so a paragraph stands only where it comes first.
    """
    from pydoc_data.topics import topics

    found = chain.from_iterable(paragraphs(topics[name]) for name in sorted(topics))
    return tuple(dict.fromkeys(found))


def paragraphs(text: str) -> Iterator[str]:
    """The paragraphs of ``text`` that read as English; code, grammar, tables and headings left out."""
    for block in re.split(r"\n\s*\n", text):
        line = re.sub(r"^[*-] ", "", " ".join(block.split()))
        symbols = len(SYMBOLS.findall(line))
        if (
            len(line.split()) >= MIN_WORDS
            and SENTENCE.match(line)
            and not NOT_PROSE.search(block)
            and symbols <= MOST_SYMBOLS * len(line)
        ):
            yield line


def definitions(start: float = 0.0) -> Iterator[Definition]:
    """Public modules, classes, functions and methods whose docstring has prose, module after module.

    Args:
        start: as in :func:`prose`.
    """
    for path in turned(modules(), start):
        name = ".".join(_names(path.relative_to(_folder())))
        yield from _documented(ast.parse(path.read_text(encoding="utf-8")), name)


def _documented(node: ast.AST, name: str) -> Iterator[Definition]:
    """``node`` and what is defined in it, each if it has prose."""
    if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
        return
    if prose := tuple(paragraphs(inspect.cleandoc(ast.get_docstring(node) or ""))):
        signature = ast.unparse(node.args) if isinstance(node, ast.FunctionDef) else None
        yield Definition(name, signature, prose)
    if not isinstance(node, ast.FunctionDef):
        for child in node.body:
            if not (inner := getattr(child, "name", "_")).startswith("_"):
                yield from _documented(child, f"{name}.{inner}")


def sources(start: float = 0.0) -> Iterator[str]:
    """The sources of the modules, one after another.

    Args:
        start: as in :func:`prose`.
    """
    return (path.read_text(encoding="utf-8").strip() for path in turned(modules(), start))


@lru_cache(maxsize=1)
def modules() -> tuple[Path, ...]:
    """The public modules of the standard library that are written in Python, by name.

    Raises:
        PromptError: this Python came without their sources.
    """
    folder = _folder()
    found = [path for path in folder.rglob("*.py") if _is_public(path.relative_to(folder))]
    if not found:
        raise PromptError(
            f"no sources of the standard library in {folder}; use a Python that was installed with them"
        )
    return tuple(sorted(found))


def _folder() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _is_public(path: Path) -> bool:
    names = _names(path)
    hidden = any(name[0] in "_." or "test" in name for name in names)
    return bool(names) and not hidden and names[0] not in FOREIGN


def _names(path: Path) -> tuple[str, ...]:
    """``json/decoder.py`` as ``("json", "decoder")``, ``json/__init__.py`` as ``("json",)``."""
    return path.parent.parts if path.stem == "__init__" else path.with_suffix("").parts


def start_of(seed: int) -> float:
    """Where a seed begins in a text, as a share of it in [0, 1); seed 0 at the beginning."""
    return seed * GOLDEN % 1


def turned(items: Sequence[T], start: float) -> Iterable[T]:
    """All of ``items``, beginning at the share ``start`` of them."""
    at = int(start * len(items))
    return chain(items[at:], items[:at])
