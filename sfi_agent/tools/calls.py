"""Reading one call, character by character."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from sfi_agent.tools.events import CUT, CallArguments, CallFinished, CallInvalid, CallStarted, Event
from sfi_agent.tools.prompt import whole_value
from sfi_agent.tools.scan import CallScanner, ValueScanner

ARGUMENTS = ("arguments", "parameters")
"""Keys of a call's arguments; models mix them up."""
NAME = r"[^\s{]([^{]*[^\s{])?"
"""Of a function before its arguments."""
ID = "[CALL_ID]"
"""Between a name and the id of its call."""


class CallReader:
    """Reads ``{"name": ..., "arguments": {...}}``.

    Args:
        index: of the call.
        closes: outside of a string this ends the object, balanced or not; empty: nothing does.
        known: names that make an object a call; empty: every object is one.

    Attributes:
        done: no more characters are wanted.
        is_call: whether it is one; with ``known``, not before the name is read.
    """

    def __init__(self, index: int, *, closes: str = "", known: Collection[str] = ()) -> None:
        self.index, self.done = index, False
        self.is_call = not known
        self._closes, self._known = closes, known
        self._scan = CallScanner(ARGUMENTS)
        self._name: str | None = None
        self._sent = 0

    @property
    def text(self) -> str:
        """The object so far."""
        return self._scan.text

    def step(self, character: str) -> list[Event]:
        """Events of the next character."""
        in_string = self._scan.in_string
        self._scan.step(character)
        if self._closes and not in_string and self.text.endswith(self._closes):
            self.done = True
            return self._failed("its brackets are not closed", self.text.removesuffix(self._closes))
        events = self._started()
        if self._name is not None and self._scan.started is not None:
            events += self._arguments(self.text[self._scan.started + self._sent : self._scan.ended])
        if self._scan.done:
            self.done = True
            return events + (self._finished() if self.is_call else [])
        return events

    def end(self) -> list[Event]:
        """Events of an answer that ends here."""
        self.done = True
        return self._failed(CUT, self.text) if self.is_call else []

    def _started(self) -> list[Event]:
        if self._name is not None or self._scan.name is None:
            return []
        name = loads(self._scan.name)
        if not isinstance(name, str) or (self._known and name not in self._known):
            return []
        self._name, self.is_call = name, True
        return [CallStarted(self.index, name)]

    def _arguments(self, text: str) -> list[Event]:
        self._sent += len(text)
        return [CallArguments(self.index, text)] if text else []

    def _finished(self) -> list[Event]:
        call = loads(self.text)
        if not isinstance(call, dict):
            return self._failed("it is no valid JSON", self.text)
        name, arguments = call.get("name"), next((call[key] for key in ARGUMENTS if key in call), None)
        if not isinstance(name, str) or not name:
            return self._failed("it names no tool", self.text)
        parsed = loads(arguments) if isinstance(arguments, str) else arguments
        if parsed is None and arguments in (None, ""):
            parsed = {}
        if not isinstance(parsed, dict):
            return self._failed("its arguments are no JSON object", self.text)
        before: list[Event] = [] if self._name is not None else [CallStarted(self.index, name)]
        rest = [] if self._sent else self._arguments(json.dumps(parsed, ensure_ascii=False))
        return [*before, *rest, CallFinished(self.index, name, parsed)]

    def _failed(self, error: str, whole: str) -> list[Event]:
        sent = self._name is not None
        text = self.text[self._scan.started : self._scan.ended] if self._scan.started is not None else ""
        return [CallInvalid(self.index, self._name, text[: self._sent] if sent else whole.strip(), error)]


class NamedCallReader:
    """Reads ``name[ARGS]{...}``; an id between the two is dropped.

    Args:
        index: of the call.
        mark: ``[ARGS]``.
    """

    is_call = True

    def __init__(self, index: int, mark: str) -> None:
        self.index, self.done = index, False
        self._mark, self._head, self._text = mark, "", ""
        self._name: str | None = None
        self._value = ValueScanner()

    def step(self, character: str) -> list[Event]:
        """Events of the next character."""
        if self._name is None and character != "{":
            self._head += character
            return []
        before: list[Event] = []
        if self._name is None:
            self._name = self._head.partition(self._mark)[0].partition(ID)[0].strip()
            before = [CallStarted(self.index, self._name)]
        self._text += character
        self._value.step(character)
        before.append(CallArguments(self.index, character))
        self.done = self._value.done
        return before + (self._finished() if self.done else [])

    def end(self) -> list[Event]:
        """Events of an answer that ends here."""
        self.done = True
        return [CallInvalid(self.index, self._name, self._text or self._head, CUT)]

    def _finished(self) -> list[Event]:
        arguments = loads(self._text)
        if isinstance(arguments, dict) and self._name:
            return [CallFinished(self.index, self._name, arguments)]
        return [CallInvalid(self.index, self._name, self._text, "its arguments are no JSON object")]


def loads(text: str) -> Any:
    """The JSON value of whole characters, newlines in strings let through; None if there is none."""
    try:
        return whole_value(json.loads(text, strict=False))
    except (ValueError, RecursionError):
        return None
