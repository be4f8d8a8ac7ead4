"""Tool calls as units: where a model starts or ends one, what it needs to attend to changes."""

from __future__ import annotations

from dataclasses import dataclass, field

from sfi_agent.contracts import BoundaryDetector

DELIMITERS = ("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>", "<function=")
"""Hermes and Qwen (the first two), Mistral, Llama 3, and Llama's and Qwen-Coder's function tags."""


@dataclass
class ToolCallDetector(BoundaryDetector):
    """Fires on the token that completes a tool-call delimiter, or opens or closes a JSON object.

    Text may be cut anywhere: each delimiter fires once, at its last character. A token that
    completes two fires once, there being one step that reads it.

    Attributes:
        delimiters: strings that fire when complete.
        json_braces: fire where an outermost JSON object opens and where it closes.
    """

    delimiters: tuple[str, ...] = DELIMITERS
    json_braces: bool = True
    _seen: str = field(default="", init=False, repr=False, compare=False)
    _json: JSONBraces = field(default_factory=lambda: JSONBraces(), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.delimiters, str) or not all(self.delimiters):
            raise ValueError(f"delimiters must be non-empty strings (given {self.delimiters!r})")
        if not self.delimiters and not self.json_braces:
            raise ValueError("delimiters must not be empty while json_braces is off: nothing would ever fire")

    def observe(self, text: str) -> bool:
        if not text:
            return False
        window = self._seen + text
        complete = any(_ends_within(window, len(text), delimiter) for delimiter in self.delimiters)
        keep = max((len(delimiter) for delimiter in self.delimiters), default=1) - 1
        self._seen = window[len(window) - keep :] if keep < len(window) else window
        braces = self.json_braces and self._json.observe(text)
        return complete or braces

    def reset(self) -> None:
        self._seen = ""
        self._json = JSONBraces()


def _ends_within(window: str, last: int, delimiter: str) -> bool:
    """Whether ``delimiter`` ends among the ``last`` characters of ``window``."""
    return window.find(delimiter, max(0, len(window) - last - len(delimiter) + 1)) >= 0


@dataclass
class JSONBraces:
    """Follows braces and strings one character at a time, in constant memory.

    Prose and code have braces that open no JSON. So a first brace that is followed by neither a
    quote nor a closing brace is forgotten, and a string ends at a raw newline, which JSON does not
    allow in one: few stray braces and quotes hide the objects after them.
    """

    depth: int = 0
    in_string: bool = False
    escaped: bool = False
    just_opened: bool = False

    def observe(self, text: str) -> bool:
        """Whether an outermost object opens or closes within ``text``."""
        if self.depth == 0 and "{" not in text:
            return False
        fired = [self._step(character) for character in text]
        return any(fired)

    def _step(self, character: str) -> bool:
        if self.in_string:
            self._step_string(character)
            return False
        if self.just_opened and not character.isspace():
            self.just_opened = False
            if character not in '"}':
                self.depth = 0
        return self._step_structure(character)

    def _step_structure(self, character: str) -> bool:
        if character == '"':
            self.in_string = self.depth > 0
        elif character == "{":
            self.depth += 1
            self.just_opened = self.depth == 1
            return self.just_opened
        elif character == "}" and self.depth > 0:
            self.depth -= 1
            return self.depth == 0
        return False

    def _step_string(self, character: str) -> None:
        ends = character == "\n" or (character == '"' and not self.escaped)
        self.escaped = character == "\\" and not self.escaped
        self.in_string = not ends
