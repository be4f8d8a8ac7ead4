"""The same turn by transformers' own ``generate``, timed from outside."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from langchain_sfi.demo.table import TimedTurn

if TYPE_CHECKING:
    from torch import Tensor

    from sfi_agent import Runtime


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

    def turn(self, text: str) -> TimedTurn:
        """The turn that was timed, whose answer is ``text``."""
        first, last, tokens = self.times[0], self.times[-1], len(self.times)
        return TimedTurn(
            text, tokens, first - self.began, (tokens - 1) / (last - first) if last > first else 0.0
        )


def transformers_turn(
    runtime: Runtime, messages: Sequence[Mapping[str, Any]], max_tokens: int, stop: str
) -> TimedTurn:
    """Answer ``messages`` greedily with the model's own attention and a new cache."""
    import torch

    prompt = torch.tensor([runtime.encode(messages)], device=runtime.model.device)
    with runtime.transformers() as model, torch.inference_mode():
        generate: Any = model.generate  # an attribute of unknown type, to a type checker
        clock = Clock()
        ids = generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=max_tokens,
            do_sample=False,
            stop_strings=[stop],
            tokenizer=runtime.tokenizer,
            pad_token_id=runtime.tokenizer.eos_token_id,
            streamer=clock,
        )
    text = str(runtime.tokenizer.decode(ids[0, prompt.shape[1] :], skip_special_tokens=True))
    return clock.turn(text.removesuffix(stop))
