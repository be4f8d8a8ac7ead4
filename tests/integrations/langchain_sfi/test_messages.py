"""LangChain's messages as chat templates read them."""

from __future__ import annotations

import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)

from langchain_sfi.messages import to_chat
from sfi_agent.errors import PromptError

IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/cat.png"}}


def test_roles() -> None:
    messages = [
        SystemMessage("s"),
        HumanMessage("h"),
        AIMessage("a"),
        AIMessageChunk("c"),
        ChatMessage(role="critic", content="x"),
    ]
    assert to_chat(messages) == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "h"},
        {"role": "assistant", "content": "a"},
        {"role": "assistant", "content": "c"},
        {"role": "critic", "content": "x"},
    ]


def test_calls_and_their_answers() -> None:
    call = {"name": "add", "args": {"a": 1}, "id": "7", "type": "tool_call"}
    messages = [
        AIMessage("", tool_calls=[call]),
        ToolMessage("2", tool_call_id="7", name="add"),
        FunctionMessage(name="add", content="3"),
    ]
    assert to_chat(messages) == [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"type": "function", "id": "7", "function": {"name": "add", "arguments": {"a": 1}}}
            ],
        },
        {"role": "tool", "content": "2", "tool_call_id": "7", "name": "add"},
        {"role": "tool", "content": "3", "name": "add"},
    ]


@pytest.mark.parametrize(
    "content",
    [
        ["one", " two"],
        [{"type": "text", "text": "one"}, " two"],
        [{"type": "text", "text": "one", "index": 0}, {"type": "text", "text": " two"}],
        [{"text": "one"}, {"type": "text-plain", "text": " two", "mime_type": "text/plain"}],
    ],
)
def test_text_blocks_are_joined(content: list[str | dict[str, object]]) -> None:
    assert to_chat([HumanMessage(content)]) == [{"role": "user", "content": "one two"}]


def test_an_answers_calls_and_reasoning_are_not_its_text() -> None:
    blocks = [
        {"type": "reasoning", "reasoning": "hm"},
        {"type": "text", "text": "yes"},
        {"type": "tool_call", "name": "add", "args": {}, "id": "1"},
    ]
    assert to_chat([AIMessage(blocks)])[0]["content"] == "yes"


@pytest.mark.parametrize(
    ("block", "kind"),
    [
        (IMAGE, "image_url"),
        ({"type": "audio", "base64": "AA==", "mime_type": "audio/wav"}, "audio"),
        ({"type": "reasoning", "reasoning": "hm"}, "reasoning"),
        ({"anything": 1}, "untyped"),
    ],
)
def test_what_is_not_text_is_refused_by_its_type(block: dict[str, object], kind: str) -> None:
    with pytest.raises(
        PromptError, match=f"a human message holds a content block of type '{kind}'"
    ) as caught:
        to_chat([HumanMessage(["look", block])])
    assert "\n" not in str(caught.value)


def test_a_message_that_is_no_speech_is_refused() -> None:
    with pytest.raises(PromptError, match="RemoveMessage"):
        to_chat([RemoveMessage(id="1")])
