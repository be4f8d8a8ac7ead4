"""An answer's text, made of its tokens where it is read rather than where they are chosen."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

from sfi_agent.runtime.result import Chunk
from sfi_agent.runtime.text import StopStrings, TextStream


class AnswerText:
    """Takes tokens from the thread that steps, and gives chunks to the one that iterates.

    Decoding a token takes longer than choosing it, and one thread steps for every row. So tokens wait here
    until somebody asks for chunks; only stop strings, which end the answer, need text at once.

    Args:
        text: decodes.
        stops: strings that end the answer.
    """

    def __init__(self, text: TextStream, stops: Sequence[str]) -> None:
        self._text, self._stops, self._at_once = text, StopStrings(stops), bool(stops)
        self._tokens: deque[int] = deque()
        self._chunks: deque[Chunk] = deque()
        self._shown: list[str] = []
        self._ended = self._flushed = False
        self._making = threading.RLock()  # an iterator may be collected, and end the turn, inside of it

    @property
    def waiting(self) -> bool:
        """Whether there is something to take."""
        return bool(self._tokens or self._chunks)

    def push(self, token: int) -> bool:
        """The answer goes on with this token; whether a stop string is complete with it."""
        self._tokens.append(token)
        if self._at_once:
            with self._making:
                self._make()
        return self._stops.hit

    def end(self) -> None:
        """No token will come any more."""
        self._ended = True

    def take(self) -> list[Chunk]:
        """The chunks that were not taken yet."""
        with self._making:
            self._make()
            taken, self._chunks = list(self._chunks), deque()
        return taken

    def whole(self) -> str:
        """All text so far, taken or not."""
        with self._making:
            self._make()
            return "".join(self._shown)

    def _make(self) -> None:
        ended = self._ended  # before its last tokens are looked for
        while self._tokens:
            token = self._tokens.popleft()
            self._show(Chunk(self._stops.push(self._text.push(token)), (token,)))
        if ended and not self._flushed:
            self._flushed = True
            tail = self._stops.push(self._text.flush())
            if tail := tail + ("" if self._stops.hit else self._stops.flush()):
                self._show(Chunk(tail, ()))

    def _show(self, chunk: Chunk) -> None:
        self._shown.append(chunk.text)
        self._chunks.append(chunk)
