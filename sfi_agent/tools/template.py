"""Answers read by transformers, where a tokenizer brings a response template for writing that is not ours."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sfi_agent.tools.events import (
    CallArguments,
    CallFinished,
    CallInvalid,
    CallStarted,
    Event,
    Reasoning,
    Text,
    joined,
)
from sfi_agent.tools.prompt import whole_characters
from sfi_agent.tools.tool import Tool

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REASONING = ("reasoning_content", "reasoning", "thinking")
"""Fields of a message that hold what a model thought."""


def has_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer brings a response template, and transformers can read by it."""
    return bool(getattr(tokenizer, "response_template", None)) and hasattr(tokenizer, "get_response_parser")


class TemplateParser:
    """Takes an answer in pieces and gives events; as :class:`sfi_agent.tools.parse.ResponseParser`.

    It reads character by character, for transformers raises at a call that it cannot read, and gives nothing
    of the piece it was in. What follows such a call is text.

    Args:
        tokenizer: with a response template.
        prompt: text of the prompt, which may have begun the answer.
        tools: on offer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt: str, tools: Sequence[Tool]) -> None:
        offered: list[Any] = [tool.openai for tool in tools]
        self._inner: Any = tokenizer.get_response_parser(prefix=prompt, tools=offered)
        self._calls = 0
        self._raw = ""

    def feed(self, text: str) -> list[Event]:
        """The events of a piece of the answer."""
        return joined([event for character in text for event in self._step(character)])

    def finish(self) -> list[Event]:
        """The last events, once no more text will come."""
        if self._inner is None:
            return []
        try:
            _, told = self._inner.finalize()
        except Exception as error:  # whatever its content parsers raise
            return self._failed(error)
        return joined([event for part in told for event in self._read(part)])

    def _step(self, character: str) -> list[Event]:
        if self._inner is None:
            return [Text(character)]
        try:
            told = self._inner.feed(character)
        except Exception as error:
            return self._failed(error)
        return [event for part in told for event in self._read(part)]

    def _failed(self, error: Exception) -> list[Event]:
        self._inner = None
        reason = " ".join(str(error).split())
        return self._counted(CallInvalid(self._calls, None, self._raw.strip(), reason))

    def _read(self, part: dict[str, Any]) -> list[Event]:
        kind, field = part["type"], part["field"]
        if kind == "region_open":
            self._raw = ""
        if kind == "region_chunk" and field == "tool_calls":
            self._raw += part["text"]
        elif kind == "region_chunk":
            return [(Reasoning if field in REASONING else Text)(part["text"])]
        elif kind == "region_close" and field == "tool_calls":
            value = part["value"]
            calls = value if isinstance(value, list) else [value]
            return [event for call in calls for event in self._call(call)]
        return []

    def _call(self, call: Any) -> list[Event]:
        function = call.get("function", call) if isinstance(call, dict) else {}
        name, arguments = function.get("name"), function.get("arguments")
        if not isinstance(name, str) or not name:
            return self._counted(CallInvalid(self._calls, None, self._raw.strip(), "it names no tool"))
        if not isinstance(arguments, dict):
            error = "its arguments are no JSON object"
            return self._counted(CallInvalid(self._calls, name, self._raw.strip(), error))
        index, text = self._calls, whole_characters(json.dumps(arguments, ensure_ascii=False))
        before: list[Event] = [CallStarted(index, name), CallArguments(index, text)]
        return [*before, *self._counted(CallFinished(index, name, json.loads(text)))]

    def _counted(self, event: Event) -> list[Event]:
        self._calls += 1
        return [event]
