"""One number somewhere in the text."""

from __future__ import annotations

from random import Random

from sfi_agent.evaluate.retrieval.task import Puzzle, Task
from sfi_agent.evaluate.retrieval.words import WORDS, magic, number


def make(source: Random, tokens: int) -> Puzzle:
    key, value = source.choice(WORDS), number(source)
    return Puzzle(
        lines=(magic(key, value),),
        question=f"What is the special magic number for {key}?",
        lead=f" The special magic number for {key} is:",
        answers=(value,),
        output=f" {value}.",
    )


TASK = Task("single_needle", "one number somewhere in the text", make)
