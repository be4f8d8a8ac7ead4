"""What docstrings and signatures say, as Markdown."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

NOTE = "<!-- Written by docs/generate.py from the docstrings: run `make docs` after a change. -->"
WIDTH = 88
"""Characters of a signature on one line; a longer one has a line for each parameter."""
SECTION = re.compile(r"^(Args|Attributes|Raises|Returns):\n((?:    .*(?:\n|$))+)", re.MULTILINE)


class _Bare(str):
    """An annotation that shows as it is in the source, without quotes."""

    def __repr__(self) -> str:
        return str(self)


def page(*parts: str) -> str:
    """A page of Markdown: its title, the note, and what is not empty of the rest."""
    title, *rest = parts
    return "\n\n".join([f"# {title}", NOTE, *filter(None, rest)]) + "\n"


def markdown(docstring: str | None) -> str:
    """The little reStructuredText that docstrings here use, in Markdown."""
    text = inspect.cleandoc(docstring or "")
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text).replace("``", "`")
    return re.sub(r"^::\n\n((?:    .*\n?|\n)+)", _fence, text, flags=re.MULTILINE)


def summary(kind: object) -> str:
    """The first paragraph, on one line."""
    return markdown(inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[0].replace("\n", " "))


def prose(kind: object) -> str:
    """All of a docstring but its sections (``Args:`` and the like)."""
    text = SECTION.sub("", inspect.cleandoc(kind.__doc__ or ""))
    return markdown(re.sub(r"\n{3,}", "\n\n", text)).strip()


def section(kind: object, heading: str) -> Iterator[tuple[str, str]]:
    """The entries of a section: names, as they are written, and meanings."""
    for found in SECTION.finditer(inspect.cleandoc(kind.__doc__ or "")):
        if found[1] == heading:
            for entry in re.split(r"\n    (?=[\w*])", "\n" + found[2].rstrip())[1:]:
                name, _, meaning = entry.partition(": ")
                yield name, markdown(" ".join(meaning.split()))


def attributes(kind: type) -> Iterator[tuple[str, str]]:
    """The ``Attributes:`` of a docstring: names and meanings."""
    return section(kind, "Attributes")


def signature(function: Callable[..., Any], *, bound: bool = False) -> str:
    """``name(argument: type) -> type``, as in the source; ``bound``: without its first parameter."""
    told = inspect.signature(function)
    parameters = [each.replace(annotation=_bare(each.annotation)) for each in told.parameters.values()]
    returned = _bare(told.return_annotation)
    if inspect.isgeneratorfunction(inspect.unwrap(function)) and not inspect.isgeneratorfunction(function):
        returned = _Bare(str(returned).replace("Iterator", "AbstractContextManager", 1))
    told = inspect.Signature(parameters[bound:], return_annotation=returned)
    line = f"{function.__name__}{told}"
    if len(line) <= WIDTH:
        return line
    inner = ",\n    ".join(_listed(told))
    arrow = f" -> {returned}" if returned is not inspect.Signature.empty else ""
    return f"{function.__name__}(\n    {inner},\n){arrow}"


def _listed(told: inspect.Signature) -> Iterator[str]:
    """The parameters, and the star before those that are named."""
    starred = False
    for each in told.parameters.values():
        if each.kind is each.KEYWORD_ONLY and not starred:
            yield "*"
        starred = starred or each.kind in (each.KEYWORD_ONLY, each.VAR_POSITIONAL)
        yield str(each)


def _bare(annotation: Any) -> Any:
    return _Bare(annotation) if isinstance(annotation, str) else annotation


def _fence(found: re.Match[str]) -> str:
    return "```text\n" + inspect.cleandoc(found.group(1)) + "\n```\n\n"
