"""What a turn gives back."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Chunk:
    """A piece of an answer: the tokens it took and the text they completed."""

    text: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class TurnResult:
    """An answer and what it cost.

    Attributes:
        text: the answer, without stop string and special tokens.
        token_ids: every generated token, the end token included.
        prompt_tokens: tokens of the whole prompt; ``reused_tokens`` of them were not computed anew.
        completion_tokens: length of ``token_ids``.
        finish_reason: ``stop``, ``length``, ``cancelled``, ``timeout`` or ``error``.
        mode: as in the policy.
        slow_steps: decode steps over everything; ``fast_steps``: over the sparse memory.
        drafted: tokens proposed by fast steps in verified mode; ``accepted``: those kept.
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
