"""What a turn cost: steps, bytes of KV read, seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sfi_agent.runtime.row import Row
from sfi_agent.runtime.step import Work


@contextmanager
def engine(meters: Sequence[Meter]) -> Iterator[None]:
    """The engine works on these turns together inside this block."""
    began = time.perf_counter()
    for meter in meters:
        meter._entered = began
    try:
        yield
    finally:
        for meter in meters:
            meter._engine, meter._entered = meter.engine_seconds, 0.0


class Meter:
    """Counts one turn.

    Attributes:
        read: KV and index bytes read by decode steps and by the refreshes among them.
        slow_steps, fast_steps, drafted, accepted: as in :class:`sfi_agent.runtime.result.TurnResult`.
    """

    def __init__(self, row: Row, prompt_tokens: int) -> None:
        self._row, self._prompt = row, prompt_tokens
        self._began = time.perf_counter()
        self._first: float | None = None
        self._engine_at_first = 0.0
        self.read = 0.0
        self.slow_steps = self.fast_steps = self.drafted = self.accepted = 0
        self.prefill_seconds = 0.0
        self._engine, self._entered = 0.0, 0.0

    @property
    def engine_seconds(self) -> float:
        """Time the engine has spent on this turn's steps, the one in progress included."""
        return self._engine + (time.perf_counter() - self._entered if self._entered else 0.0)

    def prepared(self, seconds: float) -> None:
        """So much of the engine's time went into compiling and capturing: no turn's steps take it again."""
        self._engine -= seconds

    def count(self, work: Work, seconds: float) -> None:
        """A step of this turn was committed."""
        if work.prefill:
            self.prefill_seconds += seconds
        elif work.fast:
            assert self._row.memory is not None
            self.fast_steps += len(work.tokens)
            self.read += self._row.memory.bytes_read(self._row.kv, len(work.tokens))
        else:
            self.slow_steps += 1
            length = self._row.kv.length
            self.read += self._row.kv.dense_bytes(length - 1, length)

    def token(self) -> None:
        """A token was added to the answer."""
        if self._first is None:
            self._first = time.perf_counter()
            self._engine_at_first = self.engine_seconds
            self.read = 0.0  # the refresh after the prefill belongs to the prefill

    @property
    def first_token_seconds(self) -> float:
        """From the turn's admission to its first token; 0 if none came."""
        return self._first - self._began if self._first is not None else 0.0

    def tokens_per_second(self, tokens: int) -> float:
        """Tokens after the first over the engine's time for them; 0 if there were none."""
        seconds = self.engine_seconds - self._engine_at_first
        return (tokens - 1) / seconds if tokens > 1 and seconds > 0 else 0.0

    def read_fraction(self, tokens: int) -> float:
        """``read`` over what dense decoding of as many tokens reads; 1 if no step decoded."""
        dense = self._row.kv.dense_bytes(self._prompt, self._prompt + max(0, tokens - 1))
        return self.read / dense if dense else 1.0
