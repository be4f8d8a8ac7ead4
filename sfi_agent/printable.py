"""Text of anybody's that is shown in a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with a question mark for each character that would move the cursor or change its colours."""
    return "".join(character if character.isprintable() else "?" for character in text)
