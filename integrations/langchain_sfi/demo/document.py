"""A document that every machine has: what the standard library says about itself."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module

# Modules with much to say in prose; `heapq` tells its theory in a string of its own.
CHAPTERS = (
    "heapq:__about__", "sched", "shelve", "tabnanny", "difflib:SequenceMatcher", "copy", "cmd", "random",
    "socketserver", "textwrap:TextWrapper", "csv", "configparser", "argparse", "statistics", "pdb",
)  # fmt: skip
QUESTION = "What is the special magic number?"
FOLLOW_UP = "Explain in two sentences what a heap is."


@dataclass(frozen=True)
class Document:
    """Chapters of the standard library's documentation, with one line that is not in it.

    Attributes:
        text: the chapters.
        magic: a number that no model knows beforehand; a line three quarters into the text gives it.
        tokens: length of the text.
        asked: the length asked for, where there are not so many chapters.
    """

    text: str
    magic: int
    tokens: int
    asked: int | None = None

    def __str__(self) -> str:
        fewer = f" ({self.asked} were asked for, and there are no more)" if self.asked else ""
        return (
            f"{self.tokens} tokens of the standard library's own documentation{fewer}. Three quarters "
            f"in, this demo has put one line, so that there is something to find: {_line(self.magic)!r}"
        )

    def ask(self, question: str) -> str:
        """A prompt: the document, then the question."""
        return f"{self.text}\n\n{question}"


def library_manual(tokens: int, count: Callable[[str], int], magic: int | None = None) -> Document:
    """Chapters up to about ``tokens`` tokens, as ``count`` counts them, around the magic number."""
    magic = magic or 1000 + secrets.randbelow(9000)
    text, fewer = _chapters(tokens, count)
    # Three quarters in: the embedded model read six numbers of six there, but one wrong in the middle.
    place = text.find("\n\n", len(text) * 3 // 4)
    text = f"{text[:place]}\n\n{_line(magic)}{text[place:]}"
    return Document(text, magic, count(text), tokens if fewer else None)


def _line(magic: int) -> str:
    return f"The special magic number is: {magic}."


def _chapters(tokens: int, count: Callable[[str], int]) -> tuple[str, bool]:
    """As many chapters as are needed, the last one cut at the end of a line; whether there are too few."""
    text, length = "", 0
    for chapter in _read():
        text = f"{text}\n\n{chapter}".strip()
        if (length := count(text)) >= tokens:
            return text[: int(len(text) * tokens / length)].rpartition("\n")[0], False
    return text, True


def _read() -> Iterator[str]:
    for chapter in CHAPTERS:
        module, _, name = chapter.partition(":")
        found = import_module(module)
        text = getattr(found, name) if name else found
        yield f"# {module}\n\n{(text if isinstance(text, str) else text.__doc__ or '').strip()}"
