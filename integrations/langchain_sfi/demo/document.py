"""A document that every machine has: the manual inside Python's own ``help()``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

TOPICS = (
    "assert", "break", "continue", "del", "for", "global", "if", "lambda", "pass", "raise", "return",
    "while", "with", "yield", "try", "integers", "booleans", "numbers", "truth", "comparisons",
    "execmodel", "import", "typesseq", "strings", "specialnames",
)  # fmt: skip
QUESTION = "TODO"
FOLLOW_UP = "TODO"


@dataclass(frozen=True)
class Document:
    """Some chapters of the manual.

    Attributes:
        text: the chapters, the last one cut where the length was reached.
        topics: their names.
        tokens: length of the text.
    """

    text: str
    topics: tuple[str, ...]
    tokens: int

    def __str__(self) -> str:
        return f"Python's own documentation of {', '.join(self.modules)}: {self.tokens} tokens"

    def ask(self, question: str) -> str:
        """A prompt: the document, then the question."""
        return f"{self.text}\n\n{question}"


def python_manual(tokens: int, count: Callable[[str], int]) -> Document:
    """Chapters of the manual up to ``tokens`` tokens, as ``count`` counts them."""
    from pydoc_data.topics import topics

    chapters: list[str] = []
    names = [name for name in TOPICS if name in topics]
    for number, name in enumerate(names, start=1):
        chapters.append(topics[name].strip())
        text = "\n\n".join(chapters)
        if (length := count(text)) >= tokens:
            text = _cut(text, tokens / length)
            return Document(text, tuple(names[:number]), count(text))
    return Document(text, tuple(names), length)


def _cut(text: str, share: float) -> str:
    """The first ``share`` of the text, to the end of a line."""
    return text[: int(len(text) * share)].rpartition("\n")[0]
