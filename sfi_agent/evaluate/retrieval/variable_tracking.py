"""A value that is handed from one variable to the next: which ones have held it?"""

from __future__ import annotations

from itertools import pairwise
from random import Random

from sfi_agent.evaluate.retrieval.task import Puzzle, Task
from sfi_agent.evaluate.retrieval.words import WORDS, number

HOPS = 4


def make(source: Random, tokens: int) -> Puzzle:
    value, names = number(source), source.sample(WORDS, HOPS + 1)
    copies = [f"The value of {one} was copied to {other}." for one, other in pairwise(names)]
    return Puzzle(
        lines=(f"The value {value} was stored in {names[0]}.", *copies),
        question=f"Which variables hold the value {value}?",
        lead=f" The value {value} was stored in",
        answers=tuple(names),
        output=f" {names[0]}.\n\n" + "\n\n".join(copies),
    )


TASK = Task("variable_tracking", "a value handed from variable to variable; name them all", make)
