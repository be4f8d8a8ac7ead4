"""Reading one JSON value that comes in pieces."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class ValueScanner:
    """Follows one JSON object or array to its end, one character at a time, in constant work for each.

    It trusts nothing but brackets and quotes: whether the value is valid shows when it is parsed.

    Attributes:
        depth: brackets open.
        in_string: inside a string.
        done: the value is complete.
    """

    depth: int = 0
    in_string: bool = False
    done: bool = False
    _escaped: bool = field(default=False, repr=False)

    def step(self, character: str) -> None:
        """Read one character of the value."""
        if self.in_string:
            self.in_string = self._escaped or character != '"'
            self._escaped = character == "\\" and not self._escaped
        elif character == '"':
            self.in_string = True
        elif character in "{[":
            self.depth += 1
        elif character in "}]":
            self.depth -= 1
            self.done = self.depth <= 0


@dataclass
class CallScanner:
    """Finds the name and the arguments in the JSON object of a call while it comes.

    Args:
        arguments: keys under which the arguments may be.

    Attributes:
        text: the object so far.
        name: JSON text of the name, once complete.
        started: offset in ``text`` of arguments that are an object; None before they begin.
        ended: offset behind them; None before they end.
    """

    arguments: tuple[str, ...]
    text: str = ""
    name: str | None = None
    started: int | None = None
    ended: int | None = None
    _value: ValueScanner = field(default_factory=ValueScanner, repr=False)
    _key: str = field(default="", repr=False)
    _string_from: int = field(default=0, repr=False)
    _after_colon: bool = field(default=False, repr=False)

    @property
    def done(self) -> bool:
        """The object is complete."""
        return self._value.done

    @property
    def in_string(self) -> bool:
        """The next character is inside a string."""
        return self._value.in_string

    def step(self, character: str) -> None:
        """Read one character."""
        was_string, was_depth = self._value.in_string, self._value.depth
        at = len(self.text)
        self.text += character
        self._value.step(character)
        if was_depth == 1:
            self._top(character, was_string, at)
        elif was_depth == 2 and self._value.depth == 1 and self.started is not None and self.ended is None:
            self.ended = at + 1

    def _top(self, character: str, was_string: bool, at: int) -> None:
        """A character among the object's own keys and values."""
        if not was_string and self._value.in_string:
            self._string_from = at
        elif was_string and not self._value.in_string:
            self._string_ended(self.text[self._string_from : at + 1])
        elif character == ":" and not was_string:
            self._after_colon = True
        elif character == "," and not was_string:
            self._key, self._after_colon = "", False
        elif character == "{" and not was_string and self.started is None and self._key in self.arguments:
            self.started = at

    def _string_ended(self, string: str) -> None:
        if not self._after_colon:
            self._key = string[1:-1]
        elif self._key == "name" and self.name is None:
            self.name = string
