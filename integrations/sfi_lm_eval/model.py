"""``--model sfi`` of the harness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from sfi_agent import Policy, Runtime, Sampling
from sfi_agent.evaluate.likelihood import Scorer


@register_model("sfi")
class SFILM(TemplateLM):
    """A runtime under one policy, as the harness sees it.

    Args:
        pretrained: embedded model, folder, GGUF file or hub name.
        device, dtype: as in :meth:`sfi_agent.Runtime.load`; the harness says ``cuda:0`` unless told
            otherwise, which is taken as ``auto`` on a machine without CUDA.
        policy: a registered policy's name, or a policy; default the runtime's.
        max_gen_toks: tokens generated where a task does not say.
        batch_size, max_batch_size: what the harness passes to every model; requests run one by one.
        runtime: a loaded model, instead of ``pretrained``.
        settings: of the policy, such as ``mode``, ``selector`` and ``budget``; several boundaries are
            joined by ``+``.

    Raises:
        ModelError: the model cannot be loaded.
        SettingError: a setting is unknown or has a value that is not allowed.
    """

    def __init__(
        self,
        pretrained: str = "smollm2-135m",
        *,
        device: str | None = None,
        dtype: str = "auto",
        policy: str | Policy | None = None,
        max_gen_toks: int = 256,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        runtime: Runtime | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        self.runtime = runtime or Runtime.load(pretrained, device=_place(device), dtype=dtype)
        if isinstance(policy, str):
            policy = self.runtime.registry.policy(policy)
        if isinstance(boundaries := settings.get("boundaries"), str):
            settings["boundaries"] = tuple(boundaries.split("+"))
        self.policy = (policy or self.runtime.policy).but(**settings)
        self.tokenizer = self.runtime.tokenizer
        self.max_gen_toks = max_gen_toks
        self.batch_size = 1
        self._device = self.runtime.device
        self._scorer = Scorer(self.runtime, self.policy)

    @property
    def max_length(self) -> int:
        """The model's window, tokens."""
        return self.runtime.window

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What a text without context begins after."""
        first = self.tokenizer.bos_token_id
        return self.eot_token_id if first is None else int(first)

    @property
    def tokenizer_name(self) -> str:
        """Names the chat template in the harness's cache."""
        return self.runtime.name.replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids; a text that brings its first special token gets no second one."""
        if add_special_tokens is None:
            begin = self.tokenizer.bos_token
            add_special_tokens = not (begin and string.startswith(begin))
        return list(self.tokenizer(string, add_special_tokens=add_special_tokens)["input_ids"])

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The messages as the model's own template writes them."""
        return str(
            self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of each whole text, in windows of the model's length."""
        return [
            self._remembered("loglikelihood_rolling", request.args, self._rolling(request.args[0]))
            for request in tqdm(requests, desc="reading texts", disable=disable_tqdm)
        ]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answers under the policy, each ended by a stop string, its end token or its length."""
        return [
            self._remembered("generate_until", request.args, self._answer(*request.args))
            for request in tqdm(requests, desc="writing answers", disable=disable_tqdm)
        ]

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        found = []
        for texts, context, continuation in tqdm(requests, desc="scoring", disable=disable_tqdm):
            score = self._scorer.score(context, continuation)
            found.append(self._remembered("loglikelihood", texts, (score.logprob, score.greedy)))
        return found

    def _rolling(self, text: str) -> float:
        windows = get_rolling_token_windows(
            token_list=self.tok_encode(text, add_special_tokens=False),
            prefix_token=self.prefix_token_id,
            max_seq_len=self.max_length,
            context_len=1,
        )
        return sum(self._scorer.score(*make_disjoint_window(window)).logprob for window in windows)

    def _answer(self, context: str, asked: dict[str, Any]) -> str:
        """One answer; a context that leaves too little room loses its beginning."""
        settings = dict(normalize_gen_kwargs(asked, self.max_gen_toks))
        settings.pop("do_sample")  # as the temperature says
        tokens = settings.pop("max_gen_toks")
        stop = tuple(text for text in settings.pop("until") if text)
        sampling = Sampling.of(max_new_tokens=tokens, stop=stop, **settings)
        prompt = self.tok_encode(context)[-max(1, self.max_length - tokens) :]
        return self.runtime.generate(prompt, policy=self.policy, sampling=sampling).text

    def _remembered(self, kind: str, request: Any, answer: Any) -> Any:
        """The answer, which the harness's cache may want to keep."""
        self.cache_hook.add_partial(kind, request, answer)
        return answer


def _place(device: str | None) -> str:
    if device is None or (device.startswith("cuda") and not torch.cuda.is_available()):
        return "auto"
    return device
