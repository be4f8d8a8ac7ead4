"""An answer while it is being generated."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Self
from weakref import WeakSet

from sfi_agent.errors import PromptError, SFIError
from sfi_agent.runtime.result import Chunk, TurnResult

LOOK = 0.5
"""Seconds after which one who waits looks whether that has come which nobody tells of."""


class StreamCancelledError(Exception):
    """A stream was cancelled while it waited to begin; its iteration ends."""


class Hands:
    """The threads that have had a stream in hand: the one that opened it, and those that iterated.

    Attributes:
        cancelled: set once the stream is to end.
    """

    def __init__(self) -> None:
        self._threads = {threading.current_thread()}
        self.cancelled = threading.Event()

    def take(self) -> None:
        """This thread iterates."""
        self._threads.add(threading.current_thread())

    @property
    def only_here(self) -> bool:
        """Whether this thread alone had it, so that none goes on with it while this one waits."""
        return self._threads == {threading.current_thread()}


def waited(wait: Callable[[float], bool], timeout: float | None, reader: Hands | None) -> bool:
    """Whether what ``wait`` waits for, so many seconds at a time, came within ``timeout``.

    Raises:
        StreamCancelledError: the stream of ``reader`` was, meanwhile.
    """
    end = math.inf if timeout is None else time.monotonic() + timeout
    while not wait(max(0.0, min(LOOK, end - time.monotonic()))):
        if reader is not None and reader.cancelled.is_set():
            raise StreamCancelledError
        if time.monotonic() >= end:
            return False
    return True


class TurnStream:
    """An answer as it is generated: iterate for chunks, close to cancel, then read ``result``.

    One thread iterates; any may cancel or close. Also a context manager that closes it. While it is open,
    another turn of its session waits; without a timeout one in the stream's own thread is refused instead.
    :meth:`sfi_agent.Runtime.stream` makes one.
    """

    def __init__(
        self,
        chunks: Generator[Chunk, None, None],
        result: Callable[[], TurnResult],
        hands: Hands,
    ) -> None:
        """Hold a turn.

        Args:
            chunks: runs it.
            result: the answer so far.
            hands: in which it is; once they are ``cancelled``, ``chunks`` ends the turn before its next step.
        """
        self._chunks = chunks
        self._result = result
        self._hands = hands
        self._running = threading.Lock()
        self._reader: int | None = None
        self._ended = ""

    def __iter__(self) -> Iterator[Chunk]:
        return self

    def __next__(self) -> Chunk:
        if self._here:
            raise SFIError("a turn cannot be read in a callback of its own: it would wait for itself")
        self._hands.take()
        with self._running:
            self._reader = threading.get_ident()
            try:
                return next(self._chunks)
            except StopIteration:
                if self._ended and not self._complete():
                    raise SFIError(self._ended) from None
                raise
            finally:
                self._reader = None

    def cancel(self) -> None:
        """Have the turn end before its next step, in prefill too; returns at once."""
        self._hands.cancelled.set()

    def close(self) -> None:
        """End the turn between steps; the session keeps what was read and generated.

        Where another thread is waiting for a chunk, that one ends the turn: its iteration stops.
        """
        self.cancel()
        if self._running.acquire(blocking=False):
            try:
                self._chunks.close()
            finally:
                self._running.release()

    def _end(self, reason: str) -> None:
        """As :meth:`cancel`; who goes on iterating over what is not complete is told ``reason``."""
        self._ended = reason  # before the turn ends for it
        self.cancel()

    def _settle(self) -> None:
        """As :meth:`close`, once no thread waits for a chunk."""
        with self._running:
            self._chunks.close()

    @property
    def _here(self) -> bool:
        """Whether this thread is inside of the turn: in a callback of it."""
        return self._reader == threading.get_ident()

    def _complete(self) -> bool:
        try:
            return self._result().finish_reason != "cancelled"
        except PromptError:  # it has not begun
            return False

    @property
    def result(self) -> TurnResult:
        """The answer and what it cost, as far as it came.

        Raises:
            PromptError: the turn has not begun: nothing was iterated over.
        """
        return self._result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Streams:
    """Those of a runtime, until it is closed."""

    def __init__(self) -> None:
        self._open: WeakSet[TurnStream] = WeakSet()
        self._guard = threading.Lock()
        self._closed = False

    def check_open(self) -> None:
        """Refuse what a closed runtime does not do.

        Raises:
            SFIError: it is closed.
        """
        if self._closed:
            raise SFIError("this runtime is closed; load another")

    def add(self, stream: TurnStream) -> TurnStream:
        """The stream, which :meth:`close` will end.

        Raises:
            SFIError: the runtime is closed.
        """
        with self._guard:
            self.check_open()
            self._open.add(stream)
        return stream

    def check_outside(self) -> None:
        """Refuse to wait for a turn inside of which this thread is.

        Raises:
            SFIError: it is.
        """
        with self._guard:
            inside = any(stream._here for stream in self._open)
        if inside:
            raise SFIError(
                "a runtime cannot be closed in a callback of one of its turns: it would wait for itself; do "
                "that in another thread"
            )

    def close(self) -> None:
        """End all, between steps, and have no more."""
        with self._guard:
            self._closed, ending = True, list(self._open)
        for stream in ending:
            stream._end("this runtime was closed before the turn was over; a session keeps what came")
        for stream in ending:
            stream._settle()
