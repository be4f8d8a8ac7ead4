"""Which words are the most frequent in a long list?"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from sfi_agent.evaluate.retrieval.task import Puzzle, Task
from sfi_agent.evaluate.retrieval.words import WORDS

COMMON = 3
SHARE = 0.7
"""Of the list that the common words have together; the others share the rest."""


def make(source: Random, tokens: int) -> Puzzle:
    words = source.sample(WORDS, len(WORDS))
    common, rare = words[:COMMON], words[COMMON:]
    draw = Random(source.random())

    def haystack(start: float) -> Iterator[str]:
        while True:
            yield draw.choice(common if draw.random() < SHARE else rare)

    return Puzzle(
        lines=(),
        question="What are the three most common words in the list above?",
        lead="\n\nThe three most common words are:",
        answers=tuple(common),
        output="".join(f"\n{place}. {word}" for place, word in enumerate(common, 1)),
        haystack=haystack,
        between=", ",
    )


TASK = Task("aggregation", "the three most frequent words of a long list", make)
