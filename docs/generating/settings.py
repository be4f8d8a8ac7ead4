"""Settings of a turn, and the embedded models."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

from generating.docstrings import attributes, markdown, page, summary
from sfi_agent import policy
from sfi_agent.models.embedded import EMBEDDED


def settings() -> str:
    """Every setting of a turn, with its default and what is allowed."""
    parts = []
    for model in (policy.Policy, policy.Sampling):
        parts += [f"## `{model.__name__}`", summary(model), _fields(model)]
    return page("Settings", *parts)


def _fields(model: type[BaseModel]) -> str:
    meaning = dict(attributes(model))
    rows = ["| setting | default | allowed | meaning |", "| --- | --- | --- | --- |"]
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        told = meaning.get(name) or next(f"see `{other}`" for other in meaning if name in meaning[other])
        rows.append(f"| `{name}` | `{default!r}` | {_bounds(field.metadata)} | {told} |")
    return "\n".join(rows)


def _bounds(constraints: Iterable[Any]) -> str:
    """The bounds among a field's constraints: ``at least 1, at most 64``."""
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    found = [(said, getattr(each, kind, None)) for each in constraints for kind, said in words.items()]
    return ", ".join(f"{said} {bound:g}" for said, bound in found if bound is not None)


def models() -> str:
    """The embedded models."""
    rows = ["| name | parameters | window | licence | from |", "| --- | --- | --- | --- | --- |"]
    rows += [
        f"| `{m.name}` | {m.parameters:,} | {m.window:,} tokens | {m.licence} | `{m.package}` {m.version} |"
        for m in EMBEDDED.values()
    ]
    about = markdown(inspect.getmodule(type(next(iter(EMBEDDED.values())))).__doc__)  # type: ignore[union-attr]
    return page("Embedded models", about, "\n".join(rows))
