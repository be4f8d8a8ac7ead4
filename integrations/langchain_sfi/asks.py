"""What a call asks of the answer's form: tools, which of them, and a schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_sfi.recursion import recursive_schema
from sfi_agent.errors import SettingError
from sfi_agent.tools import Ask, Tool, choice_of

ASK_SETTINGS = frozenset(
    {"tools", "tool_choice", "parallel_tool_calls", "strict", "response_format", "max_string"}
)
FORMATS = (
    'must be {"type": "json_schema", "json_schema": {"schema": ...}}, which the prompt then shows, '
    '{"type": "json_object"}, with or without a "schema", or None'
)
ANY_OBJECT = {"type": "object"}


def ask_of(given: Mapping[str, Any], max_string: int) -> Ask:
    """The ask in a call's settings, which are OpenAI's.

    Args:
        given: ``tools`` (each in OpenAI's form, or anything that LangChain turns into it), ``tool_choice``,
            ``parallel_tool_calls``, ``strict``, ``response_format``; those that are missing or None do
            nothing.
        max_string: characters of a string in an answer whose schema sets no limit.

    Raises:
        SettingError: a value is not allowed.
    """
    tools = tuple(Tool.of(tool) for tool in openai_tools(given.get("tools") or ()))
    form = given.get("response_format")
    return Ask(
        tools=tools,
        choice=choice_of(tools, given.get("tool_choice")),
        parallel=_flag(given, "parallel_tool_calls"),
        schema=_schema(form),
        told=_kind(form) == "json_schema",
        strict=_flag(given, "strict"),
        max_string=max_string,
    )


def openai_tools(tools: Any) -> list[dict[str, Any]]:
    """The tools in OpenAI's form: pydantic classes, functions, JSON schemas, LangChain's and OpenAI's.

    Raises:
        SettingError: one of them is none of these.
    """
    from langchain_core.utils.function_calling import convert_to_openai_tool

    converted = []
    for tool in tools:
        try:
            made = convert_to_openai_tool(tool)
            if whole := recursive_schema(tool):
                made["function"]["parameters"] = whole
            converted.append(made)
        except Exception as error:  # LangChain raises many kinds here
            reason = " ".join(str(error).split())
            raise SettingError(
                f"tools: {str(tool)[:80]!r} is no pydantic class, function, JSON schema with a title, or "
                f"tool: {reason}"
            ) from error
    return converted


def _flag(given: Mapping[str, Any], name: str) -> bool | None:
    value = given.get(name)
    if value is not None and not isinstance(value, bool):
        raise SettingError(f"{name}: must be True, False or None (given {value!r})")
    return value


def _kind(form: Any) -> str | None:
    if form is None or form == {"type": "text"}:
        return None
    kind = form.get("type") if isinstance(form, Mapping) else None
    if kind not in ("json_schema", "json_object"):
        raise SettingError(f"response_format: {FORMATS} (given {str(form)[:80]!r})")
    return str(kind)


def _schema(form: Any) -> Mapping[str, Any] | None:
    kind = _kind(form)
    if kind is None:
        return None
    if kind == "json_object":
        schema = form.get("schema", ANY_OBJECT)
    else:
        described = form.get("json_schema")
        schema = described.get("schema") if isinstance(described, Mapping) else None
    if not isinstance(schema, Mapping):
        raise SettingError(f"response_format: {FORMATS} (given {str(form)[:80]!r})")
    return schema
