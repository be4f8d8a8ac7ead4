"""The same turn by transformers' own ``generate``, timed from outside."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from sfi_agent import Runtime


@dataclass(frozen=True)
class TimedTurn:
    """An answer of ``generate``.

    Attributes:
        text: the answer.
        token_ids: its tokens.
        first_token_seconds: from the call to the first token.
        tokens_per_second: tokens after the first over the time for them.
    """

    text: str
    token_ids: tuple[int, ...]
    first_token_seconds: float
    tokens_per_second: float


class Clock:
    """A streamer, as ``generate`` takes one, that notes when each token comes."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.times: list[float] = []
        self._prompt_seen = False

    def put(self, ids: Tensor) -> None:
        """Called with the prompt and then with each token."""
        if self._prompt_seen:
            self.times.append(time.perf_counter())
        self._prompt_seen = True

    def end(self) -> None:
        """Called after the last token."""


def transformers_turn(runtime: Runtime, messages: Sequence[Mapping[str, Any]], max_tokens: int) -> TimedTurn:
    """Answer ``messages`` greedily with the model's own attention and a new cache."""
    import torch

    prompt = torch.tensor([runtime.encode(messages)], device=runtime.model.device)
    with runtime.transformers() as model, torch.inference_mode():
        clock = Clock()
        ids = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=max_tokens,
            do_sample=False,
            pad_token_id=runtime.tokenizer.eos_token_id,
            streamer=clock,
        )
    answer = tuple(ids[0, prompt.shape[1] :].tolist())
    return _timed(runtime.tokenizer.decode(answer, skip_special_tokens=True), answer, clock)


def _timed(text: str, token_ids: tuple[int, ...], clock: Clock) -> TimedTurn:
    first, last = clock.times[0], clock.times[-1]
    rate = (len(clock.times) - 1) / (last - first) if last > first else 0.0
    return TimedTurn(text, token_ids, first - clock.began, rate)
