"""Turning tokens into text as they come, without ever showing half a character or a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from tokenizers.models import BPE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

UNFINISHED = "\ufffd"


class TextStream:
    """Incremental decoding: each token yields the text that it completed.

    Args:
        tokenizer: of the model.
        special: whether special tokens appear in the text.
        visible: those that appear where ``special`` is off; others then do not.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, special: bool = False, visible: Sequence[str] = ()
    ) -> None:
        self._tokenizer = tokenizer
        self._special = special or bool(visible)
        # Every token is decoded twice, and transformers' own part takes longer than its library's.
        decode = tokenizer.backend_tokenizer.decode if _plain(tokenizer) else tokenizer.decode
        self._text_of = partial(decode, skip_special_tokens=not self._special)
        self._hidden = _hidden(tokenizer, visible) if visible and not special else frozenset[int]()
        self._shown: list[int] = []  # the last tokens given out, which decoding the next may need
        self._waiting: list[int] = []  # tokens whose text is not given out yet

    def push(self, token: int) -> str:
        """The text that ``token`` completed; empty while a character is incomplete."""
        self._waiting.append(token)
        text = self._decode(self._shown + self._waiting)
        return "" if text.endswith(UNFINISHED) else self._give(text)

    def flush(self) -> str:
        """What is left at the end, an incomplete character included."""
        return self._give(self._decode(self._shown + self._waiting))

    def fork(self) -> TextStream:
        """A copy that goes its own way."""
        other = TextStream(self._tokenizer, special=self._special)
        other._hidden = self._hidden
        other._shown, other._waiting = list(self._shown), list(self._waiting)
        return other

    def _give(self, text: str) -> str:
        new = text[len(self._decode(self._shown)) :]
        # Decoders drop the space that begins a text, so a token needs one before it that has text.
        self._shown, self._waiting = (self._waiting if new else self._shown + self._waiting), []
        return new

    def _decode(self, ids: list[int]) -> str:
        if self._hidden:
            ids = [id for id in ids if id not in self._hidden]
        return str(self._text_of(ids)) if ids else ""


def _plain(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether decoding is its library's alone: transformers and the tokenizer's class add nothing."""
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

    kind = type(tokenizer)
    return (
        isinstance(tokenizer, PreTrainedTokenizerFast)
        and kind.decode is PreTrainedTokenizerBase.decode
        and kind._decode is PreTrainedTokenizerFast._decode
        and not (tokenizer.clean_up_tokenization_spaces and _may_clean_up(tokenizer))
    )


def _may_clean_up(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether transformers would heed that setting, which it does not of byte-pair encodings."""
    though = getattr(
        tokenizer, "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output", True
    )
    return though or not isinstance(tokenizer.backend_tokenizer.model, BPE)


def _hidden(tokenizer: PreTrainedTokenizerBase, visible: Sequence[str]) -> frozenset[int]:
    """Special tokens that do not appear."""
    added = tokenizer.added_tokens_decoder.items()
    return frozenset(id for id, token in added if token.special and token.content not in visible)


class StopStrings:
    """Holds back text that may turn out to be a stop string.

    Args:
        stops: strings that end the text, none of them empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.hit = False

    def push(self, text: str) -> str:
        """Text that may be shown now; sets ``hit`` when a stop string was completed."""
        if not self._stops:
            return text
        self._held += text
        ends = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if ends:
            self.hit = True
            shown, self._held = self._held[: min(ends)], ""
            return shown
        keep = max(_overlap(self._held, stop) for stop in self._stops)
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def flush(self) -> str:
        """What was held back, once no more text will come."""
        shown, self._held = self._held, ""
        return shown


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that begins ``stop``, shorter than ``stop``."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
