"""An answer while it is being generated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Self

from sfi_agent.runtime.result import Chunk, TurnResult


class TurnStream:
    """An answer as it is generated: iterate for chunks, close to cancel, then read ``result``.

    Also a context manager that closes it.
    """

    def __init__(self, chunks: Iterator[Chunk], result: Callable[[], TurnResult]) -> None:
        self._chunks = chunks
        self._result = result

    def __iter__(self) -> Iterator[Chunk]:
        return self._chunks

    def __next__(self) -> Chunk:
        return next(self._chunks)

    def close(self) -> None:
        """End the turn between tokens; the session keeps what was generated."""
        self._chunks.close()  # type: ignore[attr-defined]

    @property
    def result(self) -> TurnResult:
        """The answer and what it cost, as far as it came."""
        return self._result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
