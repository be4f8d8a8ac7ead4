"""A tiny model that says what a script wants, through the whole engine.

Its attention is a random Llama's, run by the real runtime with its sessions, memories and drafts; only the
last layer's logits are lifted towards the script's next token. Where drafts are verified, fast steps now and
then want another token, so that drafts are refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sfi_agent import Registry, Runtime
from sfi_agent.runtime.session import Session

START, END = "<|start|>", "<|end|>"
TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
MISLED = 11
"""Every so many positions a fast step wants the wrong token."""
Message = tuple[str, str]
Script = Callable[[list[Message]], str]


class ScriptedModel(LlamaForCausalLM):
    """Follows ``script``, which gives the answer to a conversation; ``misled`` by fast steps, or not."""

    misled = False
    script: Script
    sessions: Mapping[str, Session]
    tokenizer: PreTrainedTokenizerFast

    def forward(self, input_ids: Any = None, sfi_step: Any = None, **given: Any) -> Any:
        output = super().forward(input_ids=input_ids, sfi_step=sfi_step, **given)
        if sfi_step is not None:
            at = 0
            for row, work, _, part in sfi_step._parts:
                known = self.__dict__.setdefault("known", {}).setdefault(id(row), ([], {}))
                if len(known[0]) < row.kv.length:  # the session began with what another had read
                    (known[0][:],) = (held.tokens for held in self.sessions.values() if held.row is row)
                known[0][row.kv.length :] = input_ids[0, part].tolist()
                for back in range(work.wanted, 0, -1):
                    self._lift(output.logits[0, at], known, len(known[0]) - back + 1, work.fast)
                    at += 1
        return output

    def _lift(self, logits: torch.Tensor, known: tuple[list[int], dict], length: int, fast: bool) -> None:
        """Add 50 to the logit of the script's token, given the first ``length`` tokens."""
        tokens, answers = known[0][:length], known[1]
        start = length - 1 - tokens[::-1].index(self.tokenizer.convert_tokens_to_ids(START))
        head = start + 1 + len("assistant\n")
        written = tokens[head:]
        if not written:
            messages = re.findall(
                r"<\|start\|>(\w+)\n(.*?)<\|end\|>", self.tokenizer.decode(tokens), re.DOTALL
            )
            answers[head] = [*self.tokenizer(self.script(messages))["input_ids"], self.tokenizer.eos_token_id]
        wanted = answers[head]
        if wanted[: len(written)] == written and len(written) < len(wanted):
            token = wanted[len(written)]
            logits[(token + 1) % len(logits) if fast and self.misled and length % MISLED == 0 else token] += (
                50
            )


def scripted_runtime(script: Script, registry: Registry | None = None) -> Runtime:
    """A runtime on such a model, with a window of 32,768 tokens of one byte."""
    tokenizer = _tokenizer()
    torch.manual_seed(0)
    model = ScriptedModel(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=32768,
            bos_token_id=0, eos_token_id=1, tie_word_embeddings=False,
        )
    ).eval()  # fmt: skip
    model.script, model.tokenizer = script, tokenizer
    runtime = Runtime.load(model, tokenizer=tokenizer, device="cpu", registry=registry)
    model.sessions = runtime.sessions
    return runtime


def _tokenizer() -> PreTrainedTokenizerFast:
    alphabet = [START, END, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    inner = Tokenizer(models.BPE(vocab={text: id for id, text in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(text, special=True) for text in (START, END)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token=START,
        eos_token=END,
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
