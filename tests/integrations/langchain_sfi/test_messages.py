"""LangChain's messages as chat templates read them."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
    trim_messages,
)

from langchain_sfi import SFIChatModel
from langchain_sfi.messages import to_chat, to_prompt
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


CALLS = AIMessage(
    "",
    tool_calls=[{"name": "add", "args": {}, "id": "7"}],
    invalid_tool_calls=[{"name": "add", "args": "{", "id": "8", "error": "cut"}],
)
ORPHAN = ToolMessage("3", tool_call_id="9")


@pytest.mark.parametrize(
    ("before", "told"),
    [
        ([HumanMessage("1 + 2?")], "latest calls: none"),
        ([HumanMessage("1 + 2?"), CALLS], "latest calls: '7', '8'"),
        ([ORPHAN, AIMessage("3"), HumanMessage("Again?")], "latest calls: none"),
    ],
)
def test_a_result_of_no_call_is_refused(chat: SFIChatModel, before: list[BaseMessage], told: str) -> None:
    with pytest.raises(PromptError, match=f"a tool message answers call '9', .*{told}") as caught:
        chat.invoke([*before, ORPHAN])
    assert "\n" not in str(caught.value)


def test_results_of_calls_and_what_trimming_leaves_are_taken(chat: SFIChatModel) -> None:
    results = [ToolMessage("3", tool_call_id="7"), ToolMessage("bad JSON", tool_call_id="8")]
    whole = [SystemMessage("s"), HumanMessage("1 + 2?"), CALLS, *results, HumanMessage("And?")]
    assert chat.invoke(whole).text
    room = chat.get_num_tokens_from_messages([whole[0]]) + chat.get_num_tokens_from_messages(whole[3:])
    trimmed = trim_messages(whole, max_tokens=room, token_counter=chat, include_system=True)
    assert trimmed == [whole[0], *whole[3:]]
    assert chat.invoke(trimmed).text
    nameless = AIMessage("", tool_calls=[{"name": "add", "args": {}, "id": None}])
    assert to_prompt([HumanMessage("1 + 2?"), nameless, ORPHAN])


@pytest.mark.parametrize("prompt", ["", [], [HumanMessage("")], [SystemMessage(""), HumanMessage([])]])
def test_a_prompt_without_a_word_is_refused(chat: SFIChatModel, prompt: Any) -> None:
    with pytest.raises(PromptError, match="the prompt is empty; give at least one message with text"):
        chat.invoke(prompt)
