"""What a retrieval task is, and how one of its samples is made to fit a length.

The idea is RULER's (arXiv 2404.06654): generated questions whose answers lie somewhere in a long text,
so that any length can be tested and no model has seen the answers. The texts are this project's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from sfi_agent.errors import PromptError
from sfi_agent.evaluate import library
from sfi_agent.runtime.runtime import Runtime

ROOM = 1.25
"""Tokens generated, as a multiple of the ideal output's."""
MISSES = 30
"""Pieces of a haystack that may be skipped because they are too long for what is left to fill."""


@dataclass(frozen=True)
class Puzzle:
    """What a task hides and asks, before it is fitted to a length.

    Attributes:
        lines: hidden in the haystack, in this order, at random places.
        question: follows the haystack.
        lead: how the answer begins; the model goes on from here.
        answers: to be found in its output.
        output: an output that has them all, in the form that ``lead`` suggests.
        haystack: ``haystack(start)`` yields text without an answer in it, piece by piece, beginning at
            the share ``start`` in [0, 1) of its source.
        between: separates pieces and lines.
    """

    lines: tuple[str, ...]
    question: str
    lead: str
    answers: tuple[str, ...]
    output: str
    haystack: Callable[[float], Iterator[str]] = library.prose
    between: str = "\n\n"


@dataclass(frozen=True)
class Task:
    """A kind of puzzle.

    Attributes:
        name: what ``--tasks`` takes.
        description: one line.
        make: ``make(source, tokens)`` draws a puzzle for a context of about so many tokens.
    """

    name: str
    description: str
    make: Callable[[Random, int], Puzzle]


@dataclass(frozen=True)
class Sample:
    """One prompt and what is expected of it.

    Attributes:
        text: the haystack with what is hidden in it.
        question, lead, answers: as in :class:`Puzzle`.
        new_tokens: enough for the answer.
    """

    text: str
    question: str
    lead: str
    answers: tuple[str, ...]
    new_tokens: int

    @property
    def prompt(self) -> str:
        """The whole prompt as text to be continued."""
        return f"{self.text}\n\n{self.question}{self.lead}"

    def encode(self, runtime: Runtime, *, chat: bool = False) -> list[int]:
        """Token ids of the prompt, or with ``chat`` of a question whose answer has begun with ``lead``.

        Raises:
            PromptError: ``chat``, and the model has no chat template.
        """
        if not chat:
            return runtime.encode(self.prompt, raw=True)
        asked = runtime.encode(f"{self.text}\n\n{self.question.strip()}")
        return asked + list(runtime.tokenizer(self.lead.strip(), add_special_tokens=False)["input_ids"])

    def score(self, output: str) -> float:
        """Share of the answers that stand in ``output`` as words of their own."""
        found = [re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", output) for answer in self.answers]
        return sum(map(bool, found)) / len(self.answers)


def sample(task: Task, runtime: Runtime, tokens: int, *, seed: int = 0, chat: bool = False) -> Sample:
    """A sample whose prompt and answer take at most ``tokens`` tokens together, and nearly that many.

    Args:
        task: what kind.
        runtime: its tokenizer measures; the model is not used.
        tokens: length of the context.
        seed: of everything that is drawn, the place in the haystack included.
        chat: measure the prompt through the chat template.

    Raises:
        PromptError: what must be said does not fit.
    """
    source = Random(f"{task.name} {seed}")
    puzzle = task.make(source, tokens)
    new_tokens = round(ROOM * _count(runtime, puzzle.output)) + 1
    places = [source.random() for _ in puzzle.lines]

    def room(pieces: list[str]) -> int:
        return tokens - new_tokens - len(_put(puzzle, pieces, places, new_tokens).encode(runtime, chat=chat))

    if (left := room([])) < 0:
        raise PromptError(f"task {task.name!r} needs a context of {tokens - left} tokens (given {tokens})")
    pieces = _fill(puzzle.haystack(library.start_of(seed)), puzzle.between, runtime, left)
    while pieces and room(pieces) < 0:  # joined text may have more tokens than its pieces
        pieces.pop()
    return _put(puzzle, pieces, places, new_tokens)


def _fill(haystack: Iterator[str], between: str, runtime: Runtime, room: int) -> list[str]:
    """Pieces that take nearly ``room`` tokens with what separates them; towards the end, short ones."""
    pieces, misses = list[str](), 0
    for piece in haystack:
        cost = _count(runtime, between + piece)
        if cost > room:
            misses += 1
        else:
            pieces.append(piece)
            room -= cost
        if misses > MISSES:
            break
    return pieces


def _put(puzzle: Puzzle, pieces: list[str], places: list[float], new_tokens: int) -> Sample:
    """The puzzle's lines among the pieces, in their order, at these shares of the way."""
    whole = list(pieces)
    for place, line in reversed([*zip(sorted(places), puzzle.lines, strict=True)]):
        whole.insert(int(place * (len(pieces) + 1)), line)
    text = puzzle.between.join(whole)
    return Sample(text, puzzle.question, puzzle.lead, puzzle.answers, new_tokens)


def _count(runtime: Runtime, text: str) -> int:
    return len(runtime.tokenizer(text, add_special_tokens=False)["input_ids"])
