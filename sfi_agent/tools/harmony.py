"""Answers in messages of their own, as gpt-oss writes them: reasoning, words and calls in channels."""

from __future__ import annotations

import re
from collections.abc import Collection

from sfi_agent.tools.calls import loads
from sfi_agent.tools.events import (
    CUT,
    CallArguments,
    CallFinished,
    CallInvalid,
    CallStarted,
    Event,
    Reasoning,
    Text,
    joined,
)

MESSAGE = "<|message|>"
"""Between a message's header and what it says."""
ENDS = ("<|end|>", "<|call|>", "<|return|>", "<|start|>")
OPENED = "<|channel|>analysis" + MESSAGE
"""At the end of a prompt that opens the reasoning."""
NAME = r"[^\s<]+"
"""Of a function."""
RECIPIENT = re.compile(rf"to=(?:functions\.)?({NAME})")


class HarmonyParser:
    """Takes an answer in pieces and gives events; as :class:`sfi_agent.tools.parse.ResponseParser`.

    Args:
        tools: names of the tools on offer; empty: what looks like a call is text.
        thinking: the prompt already opened the reasoning.
        forced: the answer is a call, so a header that is cut is one.
    """

    def __init__(self, tools: Collection[str] = (), *, thinking: bool = False, forced: bool = False) -> None:
        self._tools, self._forced = bool(tools), forced
        self._held = ""
        self._calls, self._messages = 0, int(thinking)
        self._open, self._channel = thinking, "analysis"
        self._name: str | None = None
        self._arguments = ""

    def feed(self, text: str) -> list[Event]:
        """The events of a piece of the answer."""
        self._held += text
        events = list[Event]()
        while (found := self._message() if self._open else self._header()) is not None:
            events += found
        if self._open:
            keep = max(_overlap(self._held, end) for end in ENDS)
            events += self._said(len(self._held) - keep)
        return joined(events)

    def finish(self) -> list[Event]:
        """The last events, once no more text will come."""
        if self._open:
            return joined([*self._said(len(self._held)), *self._closed()])
        if self._tools and (found := RECIPIENT.search(self._held)):
            return [CallInvalid(self._calls, found[1], "", CUT)]
        if self._forced and self._held and not self._calls:
            return [CallInvalid(0, None, self._held, CUT)]
        words = self._held if not self._messages and "<|" not in self._held else ""
        return [Text(words)] if words.strip() else []

    def _header(self) -> list[Event] | None:
        """Read a header, if all of it has come."""
        header, mark, rest = self._held.partition(MESSAGE)
        if not mark:
            return None
        self._held, self._open = rest, True
        self._messages += 1
        channel, recipient = re.search(r"<\|channel\|>\s*(\w+)", header), RECIPIENT.search(header)
        self._channel = channel[1] if channel else "final"
        self._name = recipient[1] if recipient and self._tools else None
        self._arguments = ""
        return [] if self._name is None else [CallStarted(self._calls, self._name)]

    def _message(self) -> list[Event] | None:
        """Read up to the end of a message, if it has come."""
        found = [(at, end) for end in ENDS if (at := self._held.find(end)) >= 0]
        if not found:
            return None
        at, end = min(found)
        events = [*self._said(at), *self._closed()]
        self._held = self._held[len(end) :]
        return events

    def _said(self, length: int) -> list[Event]:
        """Give out the first characters of what is held."""
        text, self._held = self._held[:length], self._held[length:]
        if not text:
            return []
        if self._name is not None:
            self._arguments += text
            return [CallArguments(self._calls, text)]
        return [Reasoning(text) if self._channel == "analysis" else Text(text)]

    def _closed(self) -> list[Event]:
        """End the message."""
        self._open = False
        if (name := self._name) is None:
            return []
        index, self._name = self._calls, None
        self._calls += 1
        arguments = loads(self._arguments)
        if isinstance(arguments, dict):
            return [CallFinished(index, name, arguments)]
        return [CallInvalid(index, name, self._arguments, "its arguments are no JSON object")]


def _overlap(text: str, end: str) -> int:
    """Length of the longest end of ``text`` that begins ``end``, shorter than ``end``."""
    return next((n for n in range(min(len(end) - 1, len(text)), 0, -1) if text.endswith(end[:n])), 0)
