"""What boundary detectors may know of a Hugging Face tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from sfi_agent.contracts import Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TokenizerVocabulary(Vocabulary):
    """The text of every token id of ``tokenizer``, as it reads in the middle of a text.

    Args:
        tokenizer: a Hugging Face tokenizer, fast or slow.
        size: number of ids, at least ``len(tokenizer)``; a model's table is often padded. The ids
            without a token have the text ``""``.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, size: int | None = None) -> None:
        self.tokenizer = tokenizer
        self.size = max(len(tokenizer), size or 0)

    @cached_property
    def texts(self) -> Sequence[str]:
        known = self.tokenizer.get_vocab().values()
        texts = [""] * max(self.size, max(known, default=-1) + 1)
        ids = sorted(set(known))
        for token, text in zip(ids, self._decoded(ids), strict=True):
            texts[token] = text
        return texts

    def _decoded(self, ids: Sequence[int]) -> list[str]:
        """Texts of single ids, each decoded after an anchor.

        SentencePiece decoders drop the space that starts a text; behind an anchor they keep it.
        """
        anchor: list[int] = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        texts: list[str] = self.tokenizer.batch_decode(
            [anchor, *([*anchor, token] for token in ids)],
            skip_special_tokens=False,
            clean_up_tokenization_spaces=False,
        )
        return [text[len(texts[0]) :] for text in texts[1:]]
