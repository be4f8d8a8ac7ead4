"""A turn's answer as LangChain's message, with usage and response metadata."""

from __future__ import annotations

import json
import secrets
import string
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, AIMessageChunk, InvalidToolCall, ToolCall, ToolCallChunk
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
from langchain_core.messages.tool import invalid_tool_call, tool_call, tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.utils.json import parse_partial_json

from sfi_agent.tools import (
    CallArguments,
    CallFinished,
    CallInvalid,
    CallStarted,
    Event,
    Reasoning,
    Text,
)

if TYPE_CHECKING:
    from sfi_agent import TurnResult

REPORTED = (
    "finish_reason",
    "mode",
    "slow_steps",
    "fast_steps",
    "drafted",
    "accepted",
    "kv_read_fraction",
    "prefill_seconds",
    "first_token_seconds",
    "decode_tokens_per_second",
    "session",
)


class AnswerReader:
    """Turns one answer into messages, whole or piece by piece.

    Args:
        model: name, for the metadata.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._ids: dict[int, str] = {}
        self._arguments: dict[int, str] = {}
        self._finished = 0

    def whole(self, events: Sequence[Event], result: TurnResult) -> ChatResult:
        """The answer, for ``invoke``."""
        self._finished = sum(isinstance(event, CallFinished) for event in events)
        message = AIMessage(
            content="".join(event.text for event in events if isinstance(event, Text)),
            additional_kwargs=_reasoning(events),
            tool_calls=[self._valid(event) for event in events if isinstance(event, CallFinished)],
            invalid_tool_calls=[self._invalid(event) for event in events if isinstance(event, CallInvalid)],
            usage_metadata=_usage(result),
            response_metadata=self._metadata(result),
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def chunks(self, item: Event | TurnResult) -> Iterator[ChatGenerationChunk]:
        """Pieces of the answer, for ``stream``; the last of them is the only one with usage and metadata."""
        message = self._chunk(item) if isinstance(item, Event) else self._last(item)
        if message is not None:
            yield ChatGenerationChunk(message=message)

    def _last(self, result: TurnResult) -> AIMessageChunk:
        return AIMessageChunk(
            content="",
            usage_metadata=_usage(result),
            response_metadata=self._metadata(result),
            chunk_position="last",
        )

    def _valid(self, call: CallFinished) -> ToolCall:
        return tool_call(name=call.name, args=call.arguments, id=self._id(call.index))

    def _invalid(self, call: CallInvalid) -> InvalidToolCall:
        return invalid_tool_call(name=call.name, args=call.text, id=self._id(call.index), error=call.error)

    def _chunk(self, event: Event) -> AIMessageChunk | None:
        if isinstance(event, Text):
            return AIMessageChunk(content=event.text)
        if isinstance(event, Reasoning):
            return AIMessageChunk(content="", additional_kwargs=_reasoning([event]))
        if isinstance(event, CallFinished):
            self._finished += 1
            return None
        return AIMessageChunk(content="", tool_call_chunks=[self._call_chunk(event)])

    def _call_chunk(self, event: CallStarted | CallArguments | CallInvalid) -> ToolCallChunk:
        index, known = event.index, event.index in self._ids
        name = None if isinstance(event, CallArguments) or known else event.name
        text = "" if isinstance(event, CallStarted) else event.text
        if isinstance(event, CallInvalid):
            before = self._arguments.get(index, "")
            text = text.removeprefix(before)
            text += unreadable(before + text)
        self._arguments[index] = self._arguments.get(index, "") + text
        return tool_call_chunk(name=name, args=text, id=None if known else self._id(index), index=index)

    def _id(self, index: int) -> str:
        """Nine letters and digits, which is what the strictest templates (Mistral's) take."""
        alphabet = string.ascii_letters + string.digits
        return self._ids.setdefault(index, "".join(secrets.choice(alphabet) for _ in range(9)))

    def _metadata(self, result: TurnResult) -> dict[str, Any]:
        reported = {name: getattr(result, name) for name in REPORTED}
        if self._finished and result.finish_reason == "stop":
            reported["finish_reason"] = "tool_calls"
        return {"model_name": self._model, "model_provider": "sfi", **reported}


def unreadable(arguments: str) -> str:
    """What to append so that LangChain takes streamed arguments for invalid.

    It completes what looks cut: half a path would become a valid call that deletes the wrong folder. A
    bracket that closes nothing stops that.
    """
    for end in ("", "]", "}", '"]', '"}', '""]', '""}'):
        try:
            readable = isinstance(parse_partial_json(arguments + end), dict) if arguments + end else True
        except (json.JSONDecodeError, ValueError):
            readable = False
        if not readable:
            return end
    return "]"


def _reasoning(events: Iterable[Event]) -> dict[str, str]:
    text = "".join(event.text for event in events if isinstance(event, Reasoning))
    return {"reasoning_content": text} if text else {}


def _usage(result: TurnResult) -> UsageMetadata:
    return UsageMetadata(
        input_tokens=result.prompt_tokens,
        output_tokens=result.completion_tokens,
        total_tokens=result.prompt_tokens + result.completion_tokens,
        input_token_details=InputTokenDetails(cache_read=result.reused_tokens),
    )
