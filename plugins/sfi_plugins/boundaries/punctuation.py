"""Sentences as units: the trigger of Slow-Fast Inference (arXiv 2603.12038)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sfi_agent.contracts import BoundaryDetector, TokenFlag, Vocabulary

ENDERS = ".?!…‼⁇⁈⁉。．｡？！।॥؟۔։።፧፨។။།\u037e"
"""Latin, Chinese and Japanese, Devanagari, Arabic and Urdu, Armenian, Ethiopic, Khmer, Burmese,
Tibetan, Greek (its own question mark, not the semicolon)."""
CLOSERS = "\"'”’»›)]}」』）］｝】》〉〕＂＇*`"
"""Quotes, brackets, and the Markdown marks that close emphasis and code."""


@dataclass
class PunctuationDetector(BoundaryDetector):
    """A sentence ender arms; the first later token that is neither an ender nor blank fires.

    So the slow step reads the first token of the next sentence. The rules, for one token's text:

    * it arms if, spaces and newlines at both ends aside, it has only enders and closers and at
      least one ender: ``.``, ``?!``, ``...``, ``."``, ``).``, ``。\\n\\n``. Anything else merged with
      an ender leaves it part of a word: `` 3.14``, ``e.g``, ``.py``, ``!=``;
    * blank text, and no text at all, holds: it neither fires nor disarms;
    * everything else fires when armed, a closer on its own and an opening ``¿`` among them.

    A full stop on its own arms inside ``3.14`` or ``e.g`` too, cut at the stop: token by token it
    cannot be told from the end of a sentence. Nor is an ender seen that a byte-level tokenizer
    spreads over several tokens. The trigger's gap and interval bound the harm of both.

    Attributes:
        enders: characters that end a sentence.
        closers: characters that may surround an ender in one token.
    """

    enders: str = ENDERS
    closers: str = CLOSERS

    def __post_init__(self) -> None:
        if not self.enders or any(character.isspace() for character in self.enders):
            raise ValueError(f"enders must be one or more characters, none blank (given {self.enders!r})")

    def flags(self, vocabulary: Vocabulary) -> np.ndarray[Any, np.dtype[np.uint8]]:
        enders = frozenset(self.enders)
        either = enders | frozenset(self.closers)
        return np.array([_flag(text.strip(), enders, either) for text in vocabulary.texts], dtype=np.uint8)


def _flag(text: str, enders: frozenset[str], either: frozenset[str]) -> TokenFlag:
    """The flag of one token, ``text`` stripped of blanks."""
    if not text:
        return TokenFlag.HOLD
    characters = frozenset(text)
    return TokenFlag.ARM if characters <= either and characters & enders else TokenFlag.NONE
