"""An answer as text, reasoning and calls, read while it comes.

The parser reads one character at a time, so how the answer is cut into pieces changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any, Protocol, TypeAlias

from sfi_agent.tools.calls import CallReader
from sfi_agent.tools.delimited import DelimitedCalls, Reader
from sfi_agent.tools.events import CUT, Event, Reasoning, Text, joined
from sfi_agent.tools.family import THINKING, Family
from sfi_agent.tools.harmony import HarmonyParser

Tools: TypeAlias = Collection[str] | Mapping[str, Mapping[str, Any]]


class Parser(Protocol):
    """Takes an answer in pieces and gives events."""

    def feed(self, text: str) -> list[Event]:
        """The events of a piece of the answer."""

    def finish(self) -> list[Event]:
        """The last events, once no more text will come."""


class ResponseParser:
    """Takes an answer in pieces and gives events.

    White space next to calls and reasoning is not part of the text. A call that cannot be read is an
    event, too: nothing that a model writes raises.

    Args:
        family: how the model writes calls.
        tools: names of the tools on offer, or schemas of their arguments by name, which tell what tagged
            parameters mean; empty: what looks like a call is text.
        thinking: the prompt already opened the reasoning.
        forced: the answer is calls, so what begins one is no text, however early it is cut.
        results: the conversation has results of tools. Small models begin their answers as these begin;
            then their delimiters are not part of the text.
    """

    def __init__(
        self,
        family: Family,
        tools: Tools = (),
        *,
        thinking: bool = False,
        forced: bool = False,
        results: bool = False,
    ) -> None:
        self._family, self._tools = family, frozenset(tools)
        self._forced = forced
        self._events: list[Event] = []
        self._calls = DelimitedCalls(family, tools if isinstance(tools, Mapping) else {}, self._events)
        self._fresh, self._trim = True, False  # no text yet; white space that comes next is dropped
        self._said = False  # some text has been given out
        self._results, self._copied = family.results if results else (), False
        self._reader = self._answer(thinking)
        next(self._reader)

    def feed(self, text: str) -> list[Event]:
        """The events of a piece of the answer."""
        for character in text:
            self._reader.send(character)
        return self._taken()

    def finish(self) -> list[Event]:
        """The last events, once no more text will come."""
        with suppress(StopIteration):
            self._reader.send("")
        return self._taken()

    def _taken(self) -> list[Event]:
        events = joined(self._events)
        self._events.clear()
        return events

    def _answer(self, thinking: bool) -> Reader:
        if thinking:
            yield from self._thought()
        last = yield
        while last:
            if self._may_be_bare(last):
                last = yield from self._bare(last)
            else:
                last = yield from self._text(last)
        return ""

    # Text: what may begin a delimiter is held back until it is one or is not.

    def _text(self, last: str) -> Reader:
        """Text, up to where something else begins: a delimiter, which is opened, or a bare call."""
        held, space = "", ""
        while last:
            if not held and self._may_be_bare(last):
                return last
            held += last
            if held in (begins := self._begins()):
                return (yield from self._opened(held))
            while held and not any(text.startswith(held) for text in begins):
                space, held = self._shown(space, held[0]), held[1:]
            last = yield
        if held and self._forced:
            self._calls.invalid(held, CUT)
            return ""
        self._tell(Text((space + held).lstrip() if self._trim else space + held))
        return ""

    def _shown(self, space: str, character: str) -> str:
        """Give a character out, white space only with what follows it; returns the space that waits."""
        if character.isspace():
            return space + character
        self._tell(Text(character if self._trim else space + character))
        self._fresh = self._trim = False
        self._said = True
        return ""

    def _may_be_bare(self, character: str) -> bool:
        return bool(self._fresh and self._tools and self._family.bare and character in "{[")

    def _begins(self) -> tuple[str, ...]:
        calls = self._family.opens if self._tools else ()
        if self._fresh:
            return (THINKING[0], *self._results, *calls)
        return (*self._results, *calls) if self._copied else calls

    def _opened(self, delimiter: str) -> Reader:
        if delimiter == THINKING[0]:
            yield from self._thought()
            return (yield)
        if delimiter in self._results:
            self._copied, self._trim = True, not self._said
            return (yield)
        self._fresh, self._trim = False, not self._said
        return (yield from self._calls.between((yield)))

    def _thought(self) -> Reader:
        """Reasoning, without the white space around it."""
        held, space, begun = "", "", False
        self._trim = True
        while last := (yield):
            held += last
            if held == THINKING[1]:
                return ""
            while held and not THINKING[1].startswith(held):
                if held[0].isspace():
                    space += held[0]
                else:
                    self._tell(Reasoning(space * begun + held[0]))
                    space, begun = "", True
                held = held[1:]
        self._tell(Reasoning(held))
        return ""

    def _bare(self, first: str) -> Reader:
        """JSON at the beginning of an answer: calls if it names a tool, text if not."""
        held, last = first, first
        while last and last in "[ \n\t":
            last = yield
            held += last
        if last != "{":
            self._fresh = False
            if self._forced and not last:
                self._calls.invalid(held, CUT)
            else:
                self._tell(Text(held))
            return (yield) if last else ""
        reader = CallReader(self._calls.count, closes="", known=() if self._forced else self._tools)
        last = yield from self._calls.reading(reader, last)
        self._fresh = False
        if reader.is_call:
            self._trim = True
            return (yield from self._calls.between(last, due=False, listed=first == "["))
        self._tell(Text(held[:-1] + reader.text))
        return last

    def _tell(self, event: Text | Reasoning) -> None:
        if event.text:
            self._events.append(event)


def parser_of(
    family: Family,
    tools: Tools = (),
    *,
    thinking: bool = False,
    forced: bool = False,
    results: bool = False,
) -> Parser:
    """A parser for one answer; arguments as in :class:`ResponseParser`."""
    if family.channels:
        return HarmonyParser(tools, thinking=thinking, forced=forced)
    return ResponseParser(family, tools, thinking=thinking, forced=forced, results=results)


def parse_response(
    text: str,
    family: Family,
    tools: Tools = (),
    *,
    thinking: bool = False,
    forced: bool = False,
    results: bool = False,
) -> list[Event]:
    """The events of a whole answer; arguments as in :class:`ResponseParser`."""
    parser = parser_of(family, tools, thinking=thinking, forced=forced, results=results)
    return joined([*parser.feed(text), *parser.finish()])
