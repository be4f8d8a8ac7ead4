"""What a turn gives back."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Chunk:
    """A piece of an answer: the tokens it took and the text they completed.

    Attributes:
        text: empty where a character takes more tokens, or a stop string may have begun.
        token_ids: none where only text is left.
    """

    text: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class TurnResult:
    """An answer and what it cost.

    Attributes:
        text: the answer, without stop string and special tokens.
        token_ids: every generated token, the end token included.
        prompt_tokens: tokens of the whole prompt.
        reused_tokens: tokens of the prompt that were not computed anew, their keys and values being there.
        completion_tokens: length of ``token_ids``.
        finish_reason: ``stop``, ``length``, ``cancelled``, ``timeout`` or ``error``.
        mode: as in the policy.
        slow_steps: decode steps over everything.
        fast_steps: decode steps over the sparse memory.
        drafted: tokens that fast steps proposed in ``verified`` mode.
        accepted: drafted tokens that were kept.
        kv_read_fraction: KV bytes that decode steps and refreshes read, over what dense would read.
        prefill_seconds: model time spent on the prompt.
        first_token_seconds: from admission to the first token.
        decode_tokens_per_second: tokens after the first over the engine's time for them.
        session: id of the session, or None for a turn without one.
    """

    text: str
    token_ids: tuple[int, ...]
    prompt_tokens: int
    reused_tokens: int
    completion_tokens: int
    finish_reason: str
    mode: str
    slow_steps: int
    fast_steps: int
    drafted: int
    accepted: int
    kv_read_fraction: float
    prefill_seconds: float
    first_token_seconds: float
    decode_tokens_per_second: float
    session: str | None
