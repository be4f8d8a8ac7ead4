"""Several numbers, each under a key of its own, all asked for."""

from __future__ import annotations

from random import Random

from sfi_agent.evaluate.retrieval.task import Puzzle, Task
from sfi_agent.evaluate.retrieval.words import WORDS, magic, number

NEEDLES = 3


def make(source: Random, tokens: int) -> Puzzle:
    numbers = {key: number(source) for key in source.sample(WORDS, NEEDLES)}
    first, *rest = numbers
    return Puzzle(
        lines=tuple(magic(key, value) for key, value in numbers.items()),
        question=f"Question: What are the special magic numbers for {', '.join(rest)} and {first}?",
        lead=f"\n\nAnswer:\n- {first}:",
        answers=tuple(numbers.values()),
        output=f" {numbers[first]}\n" + "\n".join(f"- {key}: {numbers[key]}" for key in rest),
    )


TASK = Task("multi_needle", "several numbers, each under a key of its own, all asked for", make)
