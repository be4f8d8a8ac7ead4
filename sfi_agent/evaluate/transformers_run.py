"""The baseline: the same prompt through transformers' own ``generate``."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation.streamers import BaseStreamer

from sfi_agent.policy import Sampling
from sfi_agent.runtime.result import TurnResult
from sfi_agent.runtime.runtime import Runtime


class Clock(BaseStreamer):
    """Notes when each token arrives; the first call carries the prompt."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: Any) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


@contextmanager
def _plain_settings(model: PreTrainedModel) -> Iterator[None]:
    """Inside, ``generate`` knows nothing of the checkpoint's settings, a repetition penalty among them."""
    own, model.generation_config = model.generation_config, GenerationConfig()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        model.generation_config = own


def transformers_run(runtime: Runtime, prompt_ids: Sequence[int], sampling: Sampling) -> TurnResult:
    """Run ``generate`` with its own defaults, not the checkpoint's: dynamic cache, the model's attention.

    Args:
        runtime: whose model runs, with its own attention for the time of the call.
        prompt_ids: the prompt.
        sampling: only greedy and ``max_new_tokens`` and ``ignore_eos`` are honoured.
    """
    clock, began = Clock(), time.perf_counter()
    with runtime.transformers() as model, _plain_settings(model), torch.inference_mode():
        ids = torch.tensor([list(prompt_ids)], device=model.device)
        output = cast(Any, model).generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=sampling.max_new_tokens or runtime.window - len(prompt_ids),
            do_sample=False,
            eos_token_id=None if sampling.ignore_eos else sorted(runtime.stop_tokens),
            pad_token_id=0,
            streamer=clock,
        )
    tokens = tuple(output[0, len(prompt_ids) :].tolist())
    first, last = clock.times[1] - began, clock.times[-1] - clock.times[1]
    return TurnResult(
        text=str(runtime.tokenizer.decode(list(tokens), skip_special_tokens=True)),
        token_ids=tokens,
        prompt_tokens=len(prompt_ids),
        reused_tokens=0,
        completion_tokens=len(tokens),
        finish_reason="stop" if tokens[-1] in runtime.stop_tokens else "length",
        mode="transformers",
        slow_steps=len(tokens) - 1,
        fast_steps=0,
        drafted=0,
        accepted=0,
        kv_read_fraction=1.0,
        prefill_seconds=first,
        first_token_seconds=first,
        decode_tokens_per_second=(len(tokens) - 1) / last if len(tokens) > 1 else 0.0,
        session=None,
    )
