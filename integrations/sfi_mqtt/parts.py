"""What an answer is made of, as JSON, and where in the answer a piece of it begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from sfi_agent.tools import CallArguments, CallFinished, CallInvalid, CallStarted, Event, Reasoning, Text
from sfi_agent.tools.events import joined

Kind = Literal["text", "reasoning", "call_started", "call_arguments", "call_finished", "call_invalid"]
KINDS: dict[Kind, type[Event]] = {
    "text": Text,
    "reasoning": Reasoning,
    "call_started": CallStarted,
    "call_arguments": CallArguments,
    "call_finished": CallFinished,
    "call_invalid": CallInvalid,
}
NAMES = {kind: name for name, kind in KINDS.items()}
JOINED = (Text, Reasoning, CallArguments)
"""Neighbours of these kinds may be one."""


class Part(BaseModel):
    """A piece of the answer, or of a tool call in it. What does not belong to its kind is left out.

    Attributes:
        kind: ``text``, ``reasoning``, ``call_started`` (index, name), ``call_arguments`` (index, a piece of
            their JSON), ``call_finished`` (index, name, arguments) or ``call_invalid`` (index, text, error,
            and the name if it has one that can be read).
        text: of this piece.
        index: of the call, from 0.
        name: of the tool.
        arguments: of a complete call, an object.
        error: why a call cannot be read.
    """

    model_config = ConfigDict(frozen=True)

    kind: Kind
    text: str | None = None
    index: int | None = None
    name: str | None = None
    arguments: dict[str, Any] | None = None
    error: str | None = None

    @model_serializer(mode="wrap")
    def _short(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value is not None}

    @classmethod
    def of(cls, event: Event) -> Part:
        """The part that tells of ``event``."""
        return cls(kind=NAMES[type(event)], **vars(event))

    @property
    def event(self) -> Event:
        """The event that this part tells of."""
        kind = KINDS[self.kind]
        return kind(**{name: getattr(self, name) for name in kind.__dataclass_fields__})


def parts(events: Sequence[Event]) -> list[Part]:
    """Events as parts, neighbours that may be one joined."""
    return [Part.of(event) for event in joined([*events])]


def size(events: Sequence[Event]) -> int:
    """How much of an answer events are: characters, and one for each event that never is joined.

    It does not depend on which of them are joined, so it says where a piece of an answer begins.
    """
    return sum(len(event.text) if isinstance(event, JOINED) else 1 for event in events)


def rest(events: Sequence[Event], skipped: int) -> list[Event]:
    """What follows after the first ``skipped`` of :func:`size`."""
    left: list[Event] = []
    for event in events:
        length = size([event])
        if skipped >= length:
            skipped -= length
        elif isinstance(event, CallArguments):
            left.append(CallArguments(event.index, event.text[skipped:]))
            skipped = 0
        elif isinstance(event, Text | Reasoning):
            left.append(type(event)(event.text[skipped:]))
            skipped = 0
        else:
            left.append(event)
    return left
