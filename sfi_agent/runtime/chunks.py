"""A turn's prompt, read in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sfi_agent.contracts import Draw
from sfi_agent.runtime.step import Work


class PromptChunks:
    """What of a prompt the next step reads.

    Args:
        prompt: all of it.
        size: tokens of a chunk.
        first_end: a chunk that begins earlier ends here or later: of a prompt past the rotary limit the first
            one passes it, for the longest position of a call decides its frequencies.
        draw: how the last chunk, a decode step as well, may draw a token; None: it is not to.
    """

    def __init__(self, prompt: Sequence[int], size: int, first_end: int, draw: Draw | None) -> None:
        self._prompt, self._size, self._first_end, self._draw = prompt, size, first_end, draw
        self._last: dict[str, Any] = {}

    def chunk(self, first: int, **last: bool) -> Work:
        """The chunk that begins at position ``first``; of the last one with these facts."""
        self._last = last
        return self.again(first)

    def again(self, first: int) -> Work:
        """As :meth:`chunk`, with the facts that it was given."""
        stop = max(first + self._size, self._first_end)
        then = self._part(stop, stop + self._size) if stop < len(self._prompt) else None
        return self._part(first, stop)._replace(then=then)

    def _part(self, first: int, stop: int) -> Work:
        tokens = tuple(self._prompt[first:stop])
        if stop < len(self._prompt):
            return Work(tokens, wanted=0, prefill=True)
        return Work(tokens, draw=self._draw, prefill=True, **self._last)
