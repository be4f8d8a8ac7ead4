"""Calls behind the delimiter that opens them, up to the one that closes them if there is one."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, TypeAlias

from sfi_agent.tools.calls import CallReader, NamedCallReader
from sfi_agent.tools.events import CallInvalid, Event, Text
from sfi_agent.tools.family import Family
from sfi_agent.tools.tagged import TaggedCallReader

Reader: TypeAlias = Generator[None, str, str]
"""Takes characters, and ``""`` at the end of the answer; gives back the last one, where it is not its own."""


class DelimitedCalls:
    """Reads the calls of one answer.

    Args:
        family: how the model writes calls.
        schemas: of the tools' arguments, by name, as far as they are known.
        events: takes what was read.

    Attributes:
        count: calls so far, those that cannot be read among them.
    """

    def __init__(self, family: Family, schemas: Mapping[str, Any], events: list[Event]) -> None:
        self._family, self._schemas, self._events = family, schemas, events
        self.count = 0

    def between(self, last: str, *, due: bool = True, listed: bool = False) -> Reader:
        """Calls after an opening delimiter, or (not ``due``) what may follow one, up to their end."""
        closes = self._family.closes
        while last:
            if last.isspace():
                last = yield
            elif last == "{" and (due or closes) and not self._family.named:
                due, last = False, (yield from self._call(last))
            elif last == "<" and due and self._family.tagged:
                due, last = False, (yield from self._tagged(last))
            elif last == "[" and due and not listed:
                listed, last = True, (yield)
            elif not due and (last in ",;" if listed or closes else last == self._family.separator.strip()):
                due, last = True, (yield)
            elif last == "]" and listed:
                due, listed, last = False, False, (yield)
                if not closes:
                    return last
            elif closes and last == closes[0]:
                return (yield from self._closing(last))
            elif due and self._family.named:
                due, last = False, (yield from self._named(last))
            elif due:
                return (yield from self._garbage(last))
            else:
                return last
        if due:
            self.invalid("", "the answer ends where a call should begin")
        return ""

    def reading(self, reader: CallReader | NamedCallReader | TaggedCallReader, first: str) -> Reader:
        """Give ``reader`` its characters; returns the one behind its call."""
        last = first
        while True:
            self._events.extend(reader.step(last) if last else reader.end())
            if reader.done or not last:
                break
            last = yield
        self.count += reader.is_call
        return (yield) if last else ""

    def invalid(self, text: str, error: str) -> None:
        """Tell of a call without a name that can be read."""
        self._events.append(CallInvalid(self.count, None, text, error))
        self.count += 1

    def _closing(self, held: str) -> Reader:
        """The closing delimiter; what only looked like it is text."""
        closes = self._family.closes
        while held != closes:
            last = yield
            held += last
            if not last:
                return ""
            if not closes.startswith(held):
                self._events.append(Text(held[:-1]))
                return last
        return (yield)

    def _garbage(self, held: str) -> Reader:
        """What is no call, up to the closing delimiter or the end."""
        closes = self._family.closes
        while last := (yield):
            held += last
            if closes and held.endswith(closes):
                self.invalid(held.removesuffix(closes).strip(), "the call is no JSON object")
                return (yield)
        self.invalid(held.strip(), "the call is no JSON object")
        return ""

    def _call(self, first: str) -> Reader:
        return (yield from self.reading(CallReader(self.count, closes=self._family.closes), first))

    def _named(self, first: str) -> Reader:
        return (yield from self.reading(NamedCallReader(self.count, mark=self._family.named), first))

    def _tagged(self, first: str) -> Reader:
        reader = TaggedCallReader(self.count, self._schemas, self._family.closes)
        return (yield from self.reading(reader, first))
