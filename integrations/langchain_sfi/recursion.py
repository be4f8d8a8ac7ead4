"""Schemas that refer to themselves, which LangChain cuts where they come round: anything may stand there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.tools import BaseTool
from pydantic import BaseModel


def recursive_schema(given: Any) -> dict[str, Any] | None:
    """The whole JSON schema of a pydantic class or a tool that refers to itself; None for all else.

    Its root is an object, as LangChain's forms are, and its definitions are under ``$defs``.
    """
    model = given.tool_call_schema if isinstance(given, BaseTool) else given
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return None
    schema = model.model_json_schema()
    defined = schema.get("$defs", {})
    if not _comes_round(defined):
        return None
    root = schema.pop("$ref", "").rpartition("/")[2]
    return {**defined.get(root, {}), **schema}


def _comes_round(defined: Mapping[str, Any]) -> bool:
    """Whether one of these definitions leads back to itself."""
    leads = {name: _named(body) for name, body in defined.items()}
    for _ in leads:
        leads = {name: to.union(*(leads[other] for other in to)) for name, to in leads.items()}
    return any(name in to for name, to in leads.items())


def _named(part: Any) -> set[str]:
    """The definitions that a part of a schema refers to."""
    if isinstance(part, list):
        return set().union(*map(_named, part))
    if not isinstance(part, Mapping):
        return set()
    own = {part["$ref"].rpartition("/")[2]} if isinstance(part.get("$ref"), str) else set[str]()
    return own.union(*map(_named, part.values()))
