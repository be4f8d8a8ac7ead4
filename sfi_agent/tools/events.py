"""What an answer is made of, in the order in which it comes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True)
class Text:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True)
class Reasoning:
    """A piece of what the model thought before it answered."""

    text: str


@dataclass(frozen=True)
class CallStarted:
    """A call of ``name`` has begun; ``index`` counts the calls of an answer from 0."""

    index: int
    name: str


@dataclass(frozen=True)
class CallArguments:
    """A piece of the arguments' JSON."""

    index: int
    text: str


@dataclass(frozen=True)
class CallFinished:
    """A call is complete and its arguments are an object."""

    index: int
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class CallInvalid:
    """A call cannot be read, or was cut.

    Attributes:
        index: of the call.
        name: if it has one that can be read.
        text: the arguments as far as they came, or the whole call where it has no name.
        error: why, in one line.
    """

    index: int
    name: str | None
    text: str
    error: str


CUT = "the answer ends inside the call"

Event: TypeAlias = Text | Reasoning | CallStarted | CallArguments | CallFinished | CallInvalid


def joined(events: list[Event]) -> list[Event]:
    """The same with neighbouring pieces of one text, reasoning or call as one."""
    merged = list[Event]()
    for event in events:
        last = merged[-1] if merged else None
        if isinstance(event, Text) and isinstance(last, Text):
            merged[-1] = Text(last.text + event.text)
        elif isinstance(event, Reasoning) and isinstance(last, Reasoning):
            merged[-1] = Reasoning(last.text + event.text)
        elif (
            isinstance(event, CallArguments) and isinstance(last, CallArguments) and last.index == event.index
        ):
            merged[-1] = CallArguments(event.index, last.text + event.text)
        else:
            merged.append(event)
    return merged
