"""One number among many others: a key in about every hundred tokens, one of them asked for."""

from __future__ import annotations

from random import Random

from sfi_agent.evaluate.retrieval.task import Puzzle, Task
from sfi_agent.evaluate.retrieval.words import WORDS, magic, number

EVERY = 100
"""Tokens of context for each key."""


def make(source: Random, tokens: int) -> Puzzle:
    keys = source.sample(WORDS, min(max(2, tokens // EVERY), len(WORDS)))
    numbers = {key: number(source) for key in keys}
    asked = source.choice(keys)
    return Puzzle(
        lines=tuple(magic(key, value) for key, value in numbers.items()),
        question=f"What is the special magic number for {asked}?",
        lead=f" The special magic number for {asked} is:",
        answers=(numbers[asked],),
        output=f" {numbers[asked]}.",
    )


TASK = Task("multi_key", "one number among many that differ in their key", make)
