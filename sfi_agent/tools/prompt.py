"""Telling a model of tools whose chat template knows none, in text that the template passes on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sfi_agent.errors import PromptError
from sfi_agent.tools.family import RESULT
from sfi_agent.tools.tool import Tool

Message = dict[str, Any]

TOOLS = """\
You are a function calling AI model. You are given functions within <tools></tools>. You must call a \
function to help with the user's question. Do not guess.
<tools>
{tools}
</tools>
For each function call return its name and arguments within <tool_call></tool_call>:
{example}"""
"""The section of the system message, in the words that models of the Hermes family know."""
EXAMPLE = ("What does green tea cost in Paris?", "find_price", {"item": "green tea", "city": "Paris"})
"""A request and its call, which precede the conversation. Models of 100 million parameters call tools of
their own accord with an example that is a turn, and not with one that is described; and they copy
placeholders (``<location>``) into their calls, but not another tool's arguments."""
SCHEMA = """\
Answer with one JSON object on one line that follows this JSON schema, and with nothing else:
{schema}"""


def with_tools(messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool]) -> list[Message]:
    """The messages for a template that knows neither tools nor the role ``tool``.

    The tools become a section of the system message and an example of a call, an assistant's calls part of
    its text, and results messages of the user. What is told does not depend on what may be called in this
    turn, so that turns of a session share their beginning.

    Args:
        messages: ``{"role", "content", ...}``, with ``tool_calls`` in OpenAI's form.
        tools: to tell of; empty: messages alone are rewritten.

    Raises:
        PromptError: a message has no role, or a call without a name or arguments.
    """
    rewritten = _merged([_plain(message) for message in messages])
    if not tools:
        return rewritten
    request, name, arguments = EXAMPLE
    call = _call({"name": name, "arguments": arguments})
    declared = "\n".join(_json(tool.openai["function"]) for tool in tools)
    told = _with_section(rewritten, TOOLS.format(tools=declared, example=call))
    example = [{"role": "user", "content": request}, {"role": "assistant", "content": call}]
    return [told[0], *example, *told[1:]]


def with_schema(messages: Sequence[Mapping[str, Any]], schema: Mapping[str, Any]) -> list[Message]:
    """The messages with a section of the system message that asks for JSON of this schema."""
    return _with_section([*map(dict, messages)], SCHEMA.format(schema=_json(schema)))


def whole_characters(text: str) -> str:
    """The text with U+FFFD for each half of a character, which no tokenizer takes.

    Tools give such halves (the name of a file that is not UTF-8, as ``os`` decodes it), and so do models that
    escape half a pair in JSON.
    """
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def whole_value(value: Any) -> Any:
    """A JSON value whose strings and keys are :func:`whole_characters`."""
    if isinstance(value, str):
        return whole_characters(value)
    if isinstance(value, list):
        return [whole_value(part) for part in value]
    if isinstance(value, dict):
        return {whole_value(key): whole_value(part) for key, part in value.items()}
    return value


def _plain(message: Mapping[str, Any]) -> Message:
    role, content = message.get("role"), message.get("content") or ""
    if role is None:
        raise PromptError("a message has no role; say whose it is, as in {'role': 'user', 'content': ...}")
    if role == "tool":
        return {"role": "user", "content": f"{RESULT[0]}\n{content}\n{RESULT[1]}"}
    calls = [_call(_function_of(call)) for call in message.get("tool_calls") or ()]
    parts = [content, *calls] if content else calls
    plain = {name: value for name, value in message.items() if name != "tool_calls"}
    return {**plain, "content": "\n".join(parts)}


def _function_of(call: Any) -> Mapping[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not {"name", "arguments"} <= function.keys():
        raise PromptError(
            "a call in tool_calls must be {'function': {'name': ..., 'arguments': ...}} "
            f"(given {repr(call)[:100]})"
        )
    return function


def _call(function: Mapping[str, Any]) -> str:
    written = _json({"name": function["name"], "arguments": function["arguments"]})
    return f"<tool_call>\n{written}\n</tool_call>"


def _merged(messages: Sequence[Message]) -> list[Message]:
    """Neighbouring results as one message, since many templates want roles to take turns."""
    merged = list[Message]()
    for message in messages:
        last = merged[-1] if merged else None
        if last and last["role"] == message["role"] == "user" and _is_result(last) and _is_result(message):
            merged[-1] = {**last, "content": f"{last['content']}\n{message['content']}"}
        else:
            merged.append(message)
    return merged


def _is_result(message: Message) -> bool:
    return str(message["content"]).startswith(RESULT[0])


def _with_section(messages: list[Message], section: str) -> list[Message]:
    if messages and messages[0]["role"] == "system":
        first = {**messages[0], "content": f"{messages[0]['content']}\n\n{section}"}
        return [first, *messages[1:]]
    return [{"role": "system", "content": section}, *messages]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
