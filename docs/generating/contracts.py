"""Hooks, events and errors: what plugins and callers are told."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from types import ModuleType

from generating.docstrings import attributes, markdown, page, signature, summary
from sfi_agent import details, errors, events, hookspecs


def hooks() -> str:
    """Every hook with its exact signature."""
    parts = [markdown(hookspecs.__doc__)]
    for name, hook in sorted(vars(hookspecs).items(), key=lambda item: _line(item[1])):
        if name.startswith("sfi_"):
            text = re.sub(r":param (\w+): ", r"`\1`: ", markdown(hook.__doc__))
            parts += [f"## `{name}`", f"```text\n{signature(hook)}\n```", text]
    return page("Hooks", *parts, "## `register`", markdown(hookspecs.Register.__doc__))


def error_page() -> str:
    """The exception tree and when each is raised."""
    rows = ["| error | is a | raised when |", "| --- | --- | --- |"]
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, errors.SFIError):
            parents = ", ".join(f"`{base.__name__}`" for base in kind.__bases__)
            rows.append(f"| `{name}` | {parents} | {summary(kind)} |")
    return page("Errors", markdown(errors.__doc__), "\n".join(rows))


def event_page() -> str:
    """Every event and its fields."""
    parts = [markdown(events.__doc__), *_described_kinds(events)]
    return page("Events", *parts, "# Details", markdown(details.__doc__), *_described_kinds(details))


def _described_kinds(module: ModuleType) -> Iterator[str]:
    """The dataclasses of a module and their fields."""
    for name, kind in vars(module).items():
        if isinstance(kind, type) and kind.__module__ == module.__name__:
            yield f"## `{name}`"
            yield summary(kind)
            yield "\n".join(f"- `{field}`: {meaning}" for field, meaning in attributes(kind))


def _line(value: object) -> int:
    return inspect.getsourcelines(value)[1] if inspect.isfunction(value) else 0
