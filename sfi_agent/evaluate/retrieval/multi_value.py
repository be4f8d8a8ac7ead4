"""Several numbers under the same key, all asked for."""

from __future__ import annotations

from random import Random

from sfi_agent.evaluate.retrieval.task import Puzzle, Task
from sfi_agent.evaluate.retrieval.words import WORDS, number


def make(source: Random, tokens: int) -> Puzzle:
    key, values = source.choice(WORDS), [number(source) for _ in range(4)]
    first, *rest = values
    return Puzzle(
        lines=tuple(f"One of the special magic numbers for {key} is: {value}." for value in values),
        question=f"What are all the special magic numbers for {key}?",
        lead=f" The four special magic numbers for {key} are: {first},",
        answers=tuple(rest),
        output=f" {', '.join(rest)}.",
    )


TASK = Task("multi_value", "several numbers under the same key; the first given, the others asked for", make)
