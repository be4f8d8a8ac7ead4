"""An answer while it is being generated."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from typing import Self

from sfi_agent.runtime.result import Chunk, TurnResult


class TurnStream:
    """An answer as it is generated: iterate for chunks, close to cancel, then read ``result``.

    One thread iterates; any may cancel or close. Also a context manager that closes it.

    Args:
        chunks: runs the turn.
        result: the answer so far.
        cancelled: once set, ``chunks`` ends the turn before its next step.
    """

    def __init__(
        self,
        chunks: Generator[Chunk, None, None],
        result: Callable[[], TurnResult],
        cancelled: threading.Event,
    ) -> None:
        self._chunks = chunks
        self._result = result
        self._cancelled = cancelled
        self._running = threading.Lock()

    def __iter__(self) -> Iterator[Chunk]:
        return self

    def __next__(self) -> Chunk:
        with self._running:
            return next(self._chunks)

    def cancel(self) -> None:
        """Have the turn end before its next step, in prefill too; returns at once."""
        self._cancelled.set()

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

    @property
    def result(self) -> TurnResult:
        """The answer and what it cost, as far as it came."""
        return self._result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
