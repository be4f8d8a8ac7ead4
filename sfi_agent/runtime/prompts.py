"""From what a caller writes to token ids, and whether a model can run them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import index
from typing import TYPE_CHECKING, Any

from sfi_agent.errors import PromptError, PromptTooLongError, RotaryLimitError
from sfi_agent.models.architecture import Architecture
from sfi_agent.policy import Sampling
from sfi_agent.tools import whole_characters

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode(
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    prompt: str | Sequence[Mapping[str, Any]],
    *,
    raw: bool,
    tools: Sequence[Mapping[str, Any]] | None,
) -> list[int]:
    """Token ids of a prompt; ``name`` is the model's, the rest as for ``Runtime.encode``."""
    if not prompt:
        raise PromptError("the prompt is empty; give it at least one character of text or one message")
    if raw:
        if not isinstance(prompt, str):
            raise PromptError("raw prompts are text; messages need the chat template")
        return list(tokenizer(whole_characters(prompt))["input_ids"])
    try:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [*map(dict, prompt)]
    except (TypeError, ValueError):
        raise PromptError(
            "a prompt is text or a list of messages, {'role': ..., 'content': ...} "
            f"(given a {type(prompt).__name__})"
        ) from None
    if not getattr(tokenizer, "chat_template", None):
        raise PromptError(f"model {name!r} has no chat template; pass raw text (--raw)")
    try:
        text = tokenizer.apply_chat_template(
            messages,
            tools=[*map(dict, tools)] if tools else None,
            add_generation_prompt=True,
            tokenize=False,
        )
    except Exception as error:  # a template may raise anything about messages it does not expect
        reason = " ".join(str(error).split())
        raise PromptError(f"the chat template of {name!r} refuses these messages: {reason}") from error
    return list(tokenizer(whole_characters(str(text)), add_special_tokens=False)["input_ids"])


def checked(prompt_ids: Sequence[int], vocabulary: int) -> list[int]:
    """A prompt's token ids, as the caller's list may change.

    Args:
        prompt_ids: as given.
        vocabulary: its size, padding included.

    Raises:
        PromptError: they are none of this model.
    """
    ids = _numbers(prompt_ids)
    if not ids:
        raise PromptError("the prompt is empty; give it at least one token")
    if not 0 <= min(ids) <= max(ids) < vocabulary:
        raise PromptError(
            f"the prompt has token ids outside 0 ... {vocabulary - 1}; use this model's tokenizer"
        )
    return ids


def room(length: int, sampling: Sampling, architecture: Architecture) -> int:
    """Tokens that may be generated after a prompt.

    Args:
        length: of the prompt, tokens.
        sampling: how many are asked for.
        architecture: of the model.

    Raises:
        PromptError: so many do not fit behind it.
    """
    wanted = sampling.max_new_tokens or 1
    if length + wanted > architecture.window:
        raise PromptTooLongError(length, architecture.window, wanted)
    limit = architecture.rotary_limit
    if limit is None or length > limit:
        return architecture.window - length
    if length + wanted > limit:
        raise RotaryLimitError(length, limit, wanted)
    return limit - length


def _numbers(prompt_ids: Sequence[int]) -> list[int]:
    """The ids, if that is what they are."""
    try:
        if isinstance(prompt_ids, Sequence):
            return [*map(index, prompt_ids)]
    except TypeError:
        pass
    raise PromptError(
        "a turn takes a list of token ids, which `encode` makes of text or messages "
        f"(given a {type(prompt_ids).__name__})"
    )
