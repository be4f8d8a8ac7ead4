"""A tool as a model sees it, and which tools it may or must call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sfi_agent.errors import SettingError
from sfi_agent.nesting import refuse_deep

WORDS = ("auto", "any", "required", "none")


@dataclass(frozen=True)
class Tool:
    """A function that the model may call.

    Attributes:
        name: as in the call.
        description: for the model.
        parameters: JSON schema of its arguments, an object.
    """

    name: str
    description: str = ""
    parameters: dict[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Tool:
        """From OpenAI's form, ``{"type": "function", "function": {"name", "description", "parameters"}}``.

        Raises:
            SettingError: it has no name, or its parameters are no JSON schema of an object, or too deep.
        """
        function = given.get("function") if isinstance(given, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise SettingError(
                'tools: each must be {"type": "function", "function": {"name": ...}} '
                f"(given {str(given)[:80]!r})"
            )
        parameters = function.get("parameters") or {"type": "object", "properties": {}}
        if not isinstance(parameters, Mapping) or parameters.get("type", "object") != "object":
            raise SettingError(
                f"tools: parameters of {function['name']!r} must be a JSON schema of an object "
                f"(given {str(parameters)[:80]!r})"
            )
        refuse_deep(parameters, f"tools: parameters of {function['name']!r}: ")
        schema = {"type": "object", "properties": {}, **parameters}
        return cls(function["name"], str(function.get("description") or ""), schema)

    @property
    def openai(self) -> dict[str, Any]:
        """OpenAI's form, which chat templates read."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}


@dataclass(frozen=True)
class ToolChoice:
    """What a call asks of the model.

    Attributes:
        tools: those that it may call.
        forced: it must call one of them.
    """

    tools: tuple[Tool, ...]
    forced: bool = False


NO_TOOLS = ToolChoice(())


def choice_of(tools: Sequence[Tool], given: Any) -> ToolChoice:
    """The choice that ``given`` names.

    Args:
        tools: all.
        given: None or ``auto``: a call or text; ``any``, ``required`` or True: a call; ``none`` or False:
            text; a tool's name, or ``{"type": "function", "function": {"name": ...}}``: a call of that one.

    Raises:
        SettingError: it names no tool, or a call is asked for where there are no tools.
    """
    name = _name(given)
    if name == "none" or (name == "auto" and not tools):
        return NO_TOOLS
    if name == "auto":
        return ToolChoice(tuple(tools))
    if not tools:
        raise SettingError(f"tool_choice: {name!r} needs at least one tool; give tools, or leave it out")
    chosen = tuple(tool for tool in tools if name in ("any", "required", tool.name))
    if not chosen:
        allowed = ", ".join([*WORDS, *(tool.name for tool in tools)])
        raise SettingError(f"tool_choice: must be one of {allowed} (given {name!r})")
    return ToolChoice(chosen, forced=True)


def _name(given: Any) -> str:
    if given is None or isinstance(given, bool):
        return {None: "auto", True: "any", False: "none"}[given]
    if isinstance(given, Mapping):
        inner = given.get("function", given)
        given = inner.get("name", given.get("type")) if isinstance(inner, Mapping) else None
    if not isinstance(given, str):
        raise SettingError(
            f"tool_choice: must be {', '.join(WORDS)}, a tool's name or "
            '{"type": "function", "function": {"name": ...}}'
        )
    return given
