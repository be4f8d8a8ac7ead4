"""What measurements read: text that every machine has or can generate, of any length, in tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from random import Random
from types import MappingProxyType
from typing import TypeVar

from sfi_agent.errors import PromptError, UnknownNameError
from sfi_agent.evaluate import conversation, library, transcripts
from sfi_agent.runtime.runtime import Runtime

T = TypeVar("T")

CHARACTERS = 5
"""Of text for each token wanted, at the first attempt."""


@dataclass(frozen=True)
class Workload:
    """A kind of text.

    Attributes:
        description: one line.
        encode: ``encode(runtime, seed, characters)`` gives the token ids of the text's beginning, at
            least that many characters of it where there are so many.
    """

    description: str
    encode: Callable[[Runtime, int, int], list[int]]


def workload(name: str, runtime: Runtime, tokens: int, *, seed: int = 0) -> list[int]:
    """Exactly ``tokens`` token ids of a workload; the same for the same seed and version of Python.

    Args:
        name: a key of ``WORKLOADS``.
        runtime: its tokenizer and chat template are used; the model is not.
        tokens: at least 1; may exceed the model's window.
        seed: other seeds begin at other places, or generate other text.

    Raises:
        UnknownNameError: no workload has this name.
        PromptError: fewer than 1 token is asked for, or more than the text has.
    """
    if name not in WORKLOADS:
        raise UnknownNameError("workload", name, WORKLOADS)
    if tokens < 1:
        raise PromptError(f"a workload has at least 1 token (given {tokens})")
    encode, characters = WORKLOADS[name].encode, CHARACTERS * tokens
    ids = encode(runtime, seed, characters)
    while len(ids) < tokens:
        before, characters = len(ids), 2 * characters
        ids = encode(runtime, seed, characters)
        if len(ids) == before:
            raise PromptError(f"workload {name!r} has {before} tokens for this model (asked for {tokens})")
    return ids[:tokens]


def _text(pieces: Callable[[int], Iterator[str]], between: str) -> Callable[[Runtime, int, int], list[int]]:
    def encode(runtime: Runtime, seed: int, characters: int) -> list[int]:
        return runtime.encode(between.join(_take(pieces(seed), characters, len)), raw=True)

    return encode


def _chat(runtime: Runtime, seed: int, characters: int) -> list[int]:
    """Through the chat template where the model has one."""
    pairs = conversation.exchanges(Random(seed), library.start_of(seed))
    taken = _take(pairs, characters, lambda pair: sum(map(len, pair)))
    said = conversation.messages(taken)
    if getattr(runtime.tokenizer, "chat_template", None):
        return runtime.encode(said)
    return runtime.encode(conversation.plain(said), raw=True)


def _take(pieces: Iterator[T], characters: int, length: Callable[[T], int]) -> list[T]:
    """Pieces until they have so many characters, or there are no more."""
    taken = []
    for piece in pieces:
        taken.append(piece)
        characters -= length(piece)
        if characters <= 0:
            break
    return taken


WORKLOADS: Mapping[str, Workload] = MappingProxyType(
    {
        "prose": Workload(
            "English: the language reference that Python carries, and docstrings",
            _text(lambda seed: library.prose(library.start_of(seed)), "\n\n"),
        ),
        "code": Workload(
            "Python: sources of the standard library",
            _text(lambda seed: library.sources(library.start_of(seed)), "\n\n\n"),
        ),
        "json": Workload(
            "transcripts of tool calls, one JSON message a line, generated",
            _text(lambda seed: transcripts.lines(Random(seed)), "\n"),
        ),
        "chat": Workload(
            "a conversation about the standard library through the chat template, generated", _chat
        ),
    }
)


def seeds_of(seed: int, count: int) -> range:
    """The seeds of ``count`` generated questions, which no other ``seed`` has."""
    return range(seed * count, (seed + 1) * count)
