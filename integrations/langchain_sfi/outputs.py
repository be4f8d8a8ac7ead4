"""A turn's result as LangChain's message, with usage and response metadata."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

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


def answer(result: TurnResult, model: str) -> ChatResult:
    """The whole answer, for ``invoke``."""
    message = AIMessage(
        content=result.text, usage_metadata=_usage(result), response_metadata=_metadata(result, model)
    )
    return ChatResult(generations=[ChatGeneration(message=message)])


def chunk_of(item: str | TurnResult, model: str) -> ChatGenerationChunk:
    """A piece of the answer, for ``stream``; or its end, the only chunk with usage and metadata."""
    if isinstance(item, str):
        return ChatGenerationChunk(message=AIMessageChunk(content=item))
    message = AIMessageChunk(
        content="",
        usage_metadata=_usage(item),
        response_metadata=_metadata(item, model),
        chunk_position="last",
    )
    return ChatGenerationChunk(message=message)


def _usage(result: TurnResult) -> UsageMetadata:
    return UsageMetadata(
        input_tokens=result.prompt_tokens,
        output_tokens=result.completion_tokens,
        total_tokens=result.prompt_tokens + result.completion_tokens,
        input_token_details=InputTokenDetails(cache_read=result.reused_tokens),
    )


def _metadata(result: TurnResult, model: str) -> dict[str, Any]:
    reported = {name: getattr(result, name) for name in REPORTED}
    return {"model_name": model, "model_provider": "sfi", **reported}
