"""LangChain messages as the dictionaries that chat templates read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from sfi_agent.errors import PromptError

ROLES: tuple[tuple[type[BaseMessage], str], ...] = (
    (SystemMessage, "system"),
    (HumanMessage, "user"),
    (AIMessage, "assistant"),
    (ToolMessage, "tool"),
    (FunctionMessage, "tool"),  # the old name of a tool's answer; templates know only the new one
)
TEXT_BLOCKS = frozenset({"text", "text-plain"})
# What an assistant's own earlier message may hold beside text: its calls travel in ``tool_calls``,
# and its reasoning is not part of the answer.
CALL_BLOCKS = frozenset({"tool_call", "tool_call_chunk", "invalid_tool_call", "tool_use", "function_call"})
REASONING_BLOCKS = frozenset({"reasoning", "thinking", "redacted_thinking"})


def to_chat(messages: Iterable[BaseMessage]) -> list[dict[str, Any]]:
    """One ``{"role", "content", ...}`` per message, for a chat template.

    Raises:
        PromptError: a message holds something that is not text, or is of an unknown kind.
    """
    return [_chat_message(message) for message in messages]


def to_prompt(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """``to_chat`` of a conversation that is to be answered; what is counted may be any part of one.

    Raises:
        PromptError: as ``to_chat``, or nothing is said, or a tool's result is of no call.
    """
    chat = to_chat(messages)
    if not any(message["content"] or "tool_calls" in message for message in chat):
        raise PromptError("the prompt is empty; give at least one message with text")
    _check_results(messages)
    return chat


def _check_results(messages: Iterable[BaseMessage]) -> None:
    """Each result must be of an earlier call, but at the beginning, where trimming may have left it alone."""
    calls, begun = dict[str | None, None](), False
    for message in messages:
        begun = begun or _role(message) not in ("system", "tool")
        if isinstance(message, AIMessage):
            calls |= {call["id"]: None for call in (*message.tool_calls, *message.invalid_tool_calls)}
        if isinstance(message, ToolMessage) and begun and not calls.keys() & {message.tool_call_id, None}:
            known = ", ".join([*map(repr, calls)][-8:]) or "none"
            raise PromptError(
                f"a tool message answers call {message.tool_call_id!r}, which no message before it makes "
                f"(the latest calls: {known}); set its tool_call_id to the id of the call, or leave it out"
            )


def _chat_message(message: BaseMessage) -> dict[str, Any]:
    chat: dict[str, Any] = {"role": _role(message), "content": _text(message)}
    if isinstance(message, AIMessage) and message.tool_calls:
        chat["tool_calls"] = [_tool_call(call) for call in message.tool_calls]
    if isinstance(message, ToolMessage):
        chat["tool_call_id"] = message.tool_call_id
    if message.name:
        chat["name"] = message.name
    return chat


def _role(message: BaseMessage) -> str:
    if isinstance(message, ChatMessage):
        return message.role
    for kind, role in ROLES:
        if isinstance(message, kind):
            return role
    raise PromptError(
        f"a {type(message).__name__} cannot be part of a prompt; "
        "use system, human, ai, tool, function or chat messages"
    )


def _text(message: BaseMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    return "".join(_block_text(block, message) for block in message.content)


def _block_text(block: str | Mapping[str, Any], message: BaseMessage) -> str:
    if isinstance(block, str):
        return block
    kind = block.get("type", "text" if "text" in block else "untyped")
    if kind in TEXT_BLOCKS and isinstance(block.get("text"), str):
        return str(block["text"])
    if isinstance(message, AIMessage) and kind in CALL_BLOCKS | REASONING_BLOCKS:
        return ""
    raise PromptError(
        f"a {message.type} message holds a content block of type {kind!r}, but the model reads text only; "
        "leave the block out or turn it into text"
    )


def _tool_call(call: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI's form, but with the arguments as an object: templates turn them into JSON themselves."""
    return {
        "type": "function",
        "id": call["id"],
        "function": {"name": call["name"], "arguments": call["args"]},
    }
