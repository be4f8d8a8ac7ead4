"""Does a tool call survive the policy? Calls asked for after a long history of calls, freely generated."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean
from typing import Any

from sfi_agent.errors import PromptError
from sfi_agent.evaluate import transcripts
from sfi_agent.evaluate.beside import DenseBeside
from sfi_agent.evaluate.transcripts import Episode
from sfi_agent.evaluate.workloads import seeds_of
from sfi_agent.policy import Policy, Sampling
from sfi_agent.runtime.runtime import Runtime

OPENING = '{"role": "assistant", "tool_calls":'
"""What the prompt says of the message to be written; tokenizers join the bracket with what follows it."""
ROOM = 2
"""Tokens generated, as a multiple of the expected call's."""


@dataclass(frozen=True)
class CallScore:
    """Of one request, or means over several.

    Attributes:
        valid: answered by a line that parses, and calls a declared tool with the arguments it requires
            and no others.
        right: answered by the very call asked for.
        kv_read_fraction: on the mean.
    """

    valid: float
    right: float
    kv_read_fraction: float


@dataclass(frozen=True)
class CallRequest:
    """A transcript that ends where a call begins.

    Attributes:
        prompt: token ids.
        call: the one asked for: ``name`` and ``arguments``.
        new_tokens: enough for it.
    """

    prompt: tuple[int, ...]
    call: dict[str, Any]
    new_tokens: int

    @property
    def sampling(self) -> Sampling:
        """Greedy, to the end of the message's line."""
        return Sampling(max_new_tokens=self.new_tokens, stop=("\n",))

    def judge(self, output: str, kv_read_fraction: float = 1.0) -> CallScore:
        """The score of one output, the text that follows ``OPENING``."""
        call = parse_call(OPENING + output)
        return CallScore(float(call is not None), float(call == self.call), kv_read_fraction)


@dataclass(frozen=True)
class ToolCalls:
    """Both ways of decoding on the same requests."""

    requests: int
    dense: CallScore
    policy: CallScore


def request(runtime: Runtime, context: int, seed: int = 0) -> CallRequest:
    """A request after as many whole episodes as fit.

    Args:
        runtime: its tokenizer measures; the model is not used.
        context: tokens of the prompt and of the call to be written, at most.
        seed: of the transcript.

    Raises:
        PromptError: not even the tools' declaration, the request and its call fit.
    """
    source = transcripts.episodes(Random(f"calls {seed}"))
    asked = next(source)
    ending = f"{transcripts.line(asked.request)}\n{OPENING}"
    expected = json.dumps(asked.rest[0]["tool_calls"], ensure_ascii=False)
    new_tokens = ROOM * _count(runtime, expected)

    def encoded(history: Iterable[str]) -> list[int]:
        return runtime.encode("\n".join([transcripts.heading(), *history, ending]), raw=True)

    if (least := len(encoded(())) + new_tokens) > context:
        raise PromptError(f"a tool call needs a context of {least} tokens (given {context})")
    history = _history(runtime, source, context - least)
    while len(prompt := encoded(history)) + new_tokens > context:  # joined text may have more tokens
        history.pop()
    return CallRequest(tuple(prompt), asked.call, new_tokens)


def tool_calls(
    beside: DenseBeside,
    policy: Policy,
    *,
    context: int,
    requests: int,
    seed: int = 0,
    on_request: Callable[[int], None] | None = None,
) -> ToolCalls:
    """Ask for calls under a policy and under dense attention, greedily.

    Args:
        beside: runs both.
        policy: in its own mode.
        context: tokens of each prompt and its call, at most.
        requests: how many.
        seed: chooses them; no two seeds have one in common.
        on_request: called before each answer, with how many came.

    Raises:
        PromptError: the context is too small for a request, or exceeds the model's window.
    """
    dense, ours = list[CallScore](), list[CallScore]()
    asked = [request(beside.runtime, context, each) for each in seeds_of(seed, requests)]
    for each, pair in zip(asked, beside.ask_all(asked, policy, on_request), strict=True):
        for scores, turn in ((dense, pair.dense), (ours, pair.policy)):
            scores.append(each.judge(turn.text, turn.kv_read_fraction))
    return ToolCalls(requests, _mean(dense), _mean(ours))


def parse_call(line: str) -> dict[str, Any] | None:
    """Name and arguments of the first call of a message, if it is valid as :class:`CallScore` says."""
    try:
        call = json.loads(line)["tool_calls"][0]
        name, arguments = call["name"], call["arguments"]
        required = transcripts.TOOLS[name][1]
    except (ValueError, LookupError, TypeError):
        return None
    if not isinstance(arguments, dict) or set(arguments) != set(required):
        return None
    return {"name": name, "arguments": arguments}


def _mean(scores: Sequence[CallScore]) -> CallScore:
    return CallScore(
        valid=fmean(score.valid for score in scores),
        right=fmean(score.right for score in scores),
        kv_read_fraction=fmean(score.kv_read_fraction for score in scores),
    )


def _history(runtime: Runtime, source: Iterator[Episode], room: int) -> list[str]:
    """Whole episodes that take at most about ``room`` tokens."""
    history = list[str]()
    for episode in source:
        text = "\n".join(map(transcripts.line, (episode.request, *episode.rest)))
        room -= _count(runtime, f"{text}\n")
        if room < 0:
            break
        history.append(text)
    return history


def _count(runtime: Runtime, text: str) -> int:
    return len(runtime.tokenizer(text, add_special_tokens=False)["input_ids"])
