"""An answer: its tokens, and its text, made where it is read rather than where they are chosen."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

from sfi_agent.runtime.result import Chunk
from sfi_agent.runtime.session import Session
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


class Answer:
    """The tokens of a turn's answer, the last of its session's, and what ends it.

    Args:
        session: whose tokens they join; when the turn begins it has those of the prompt.
        text: made of them.
        room: tokens that it may have, at most.
        stop_tokens: ids that end it.

    Attributes:
        finish_reason: why it ended, ``stop`` or ``length``; None: more tokens may come.
    """

    def __init__(self, session: Session, text: AnswerText, *, room: int, stop_tokens: frozenset[int]) -> None:
        self._text = text
        self.finish_reason: str | None = None
        self._session, self._start = session, len(session.tokens)
        self._room, self._stop_tokens = room, stop_tokens
        self._ended: list[int] | None = None

    @property
    def tokens(self) -> list[int]:
        """So far; once it has ended the session may go on without it."""
        return self._session.tokens[self._start :] if self._ended is None else self._ended

    @property
    def left(self) -> int:
        """Tokens that it still has room for."""
        return self._start + self._room - len(self._session.tokens)

    def add(self, token: int) -> None:
        """It goes on with this token, which may be its last."""
        self._session.tokens.append(token)
        stopped = self._text.push(token)
        if stopped or token in self._stop_tokens:
            self.finish_reason = "stop"
        elif not self.left:
            self.finish_reason = "length"

    def end(self) -> None:
        """No token will come any more."""
        self._text.end()
        self._ended = self.tokens
