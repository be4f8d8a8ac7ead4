"""A generated conversation about the standard library, told from its own docstrings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from random import Random

from sfi_agent.evaluate.library import Definition, definitions

FIRST = (
    "What is {name} for?",
    "Can you explain {name}?",
    "I found {name} in a program that I maintain. What does it do?",
    "Tell me about {name}, please.",
    "When would I use {name}?",
)
MORE = (
    "Go on.",
    "Is there more to know about it?",
    "And what else should I keep in mind?",
    "Please continue.",
)
CALL = ("How is it called?", "Which parameters does it take?", "Show me its signature.")


def exchanges(source: Random, start: float) -> Iterator[tuple[str, str]]:
    """Questions and their answers, without repeating a subject.

    Args:
        source: of the choices.
        start: where in the library to begin, as a share of it in [0, 1).
    """
    for found in definitions(start):
        yield from _about(found, source)


def messages(said: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    """The exchanges as messages of user and assistant, for a chat template."""
    return [
        {"role": role, "content": content}
        for exchange in said
        for role, content in zip(("user", "assistant"), exchange, strict=True)
    ]


def plain(said: list[dict[str, str]]) -> str:
    """The messages for a model without a chat template."""
    return "\n\n".join(f"{message['role'].capitalize()}: {message['content']}" for message in said)


def _about(found: Definition, source: Random) -> Iterator[tuple[str, str]]:
    first, *rest = found.paragraphs
    yield source.choice(FIRST).format(name=found.name), first
    if found.signature:
        yield source.choice(CALL), f"`{found.name}({found.signature})`"
    if rest:
        yield source.choice(MORE), "\n\n".join(rest)
