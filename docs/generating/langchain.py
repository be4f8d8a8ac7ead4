"""The page of ``langchain_sfi``."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from pydantic_core import PydanticUndefined

import langchain_sfi
from generating.classes import OURS, callable_parts, members
from generating.docstrings import attributes, page, prose
from langchain_sfi import SFIChatModel
from langchain_sfi.outputs import REPORTED

SHOWN = """[A first session](../tutorial/first-session.md) shows it at work,
[call tools](../how-to/call-tools.md) what it does with tools and schemas, and
[keep sessions](../how-to/keep-sessions.md) a store."""
METADATA = """## What an answer says

The `response_metadata` of an answer has `model_name`, `model_provider` (`sfi`) and, as in
[`TurnResult`](python.md#turnresult), {names}. A `finish_reason` of `stop` is
`tool_calls` where the answer has calls. `usage_metadata` counts tokens. A stream has these in its last chunk.

What a model that thinks wrote before its answer is in `additional_kwargs["reasoning_content"]`."""


def langchain() -> str:
    """The chat model, and what else is public."""
    parts = [prose(langchain_sfi), SHOWN, *_chat_model(), METADATA.format(names=_names(REPORTED))]
    for name in langchain_sfi.__all__:
        if inspect.isfunction(function := getattr(langchain_sfi, name)):
            parts += [f"## `{name}`", *callable_parts(function)]
    return page("LangChain", *parts)


def _chat_model() -> Iterator[str]:
    yield "## `SFIChatModel`"
    yield prose(SFIChatModel)
    yield _fields()
    yield f"It has LangChain's own fields, too: {_names(_inherited())}."
    for name, member in members(SFIChatModel):
        yield f"### `SFIChatModel.{name}`"
        yield from callable_parts(member)


def _fields() -> str:
    rows = ["| field | type | default | meaning |", "| --- | --- | --- | --- |"]
    types = {name: each for base in SFIChatModel.__mro__ for name, each in _annotations(base).items()}
    for name, meaning in attributes(SFIChatModel):
        field = SFIChatModel.model_fields[name]
        alias = f", `{field.alias}`" if field.alias else ""
        default = "" if field.default is PydanticUndefined else f"`{field.default!r}`"
        rows.append(f"| `{name}`{alias} | {_code(types[name])} | {default} | {meaning} |")
    return "\n".join(rows)


def _annotations(base: type) -> dict[str, str]:
    return inspect.get_annotations(base) if base.__module__.partition(".")[0] in OURS else {}


def _code(annotation: str) -> str:
    """A type in a cell, where a bar would end it; without what pydantic is told beside it."""
    kind = annotation.removeprefix("Annotated[").removesuffix(", SkipValidation]")
    return f"`{kind}`".replace("|", r"\|")


def _inherited() -> list[str]:
    ours = dict(attributes(SFIChatModel))
    return [name for name in SFIChatModel.model_fields if name not in ours]


def _names(names: Any) -> str:
    *most, last = [f"`{name}`" for name in names]
    return f"{', '.join(most)} and {last}"
