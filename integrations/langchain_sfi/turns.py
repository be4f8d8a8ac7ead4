"""A turn as pieces of text and then its result, for threads and for event loops."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, TypeAlias

from sfi_agent.errors import TurnTimeoutError

if TYPE_CHECKING:
    from sfi_agent import TurnResult, TurnStream

    Item: TypeAlias = str | TurnResult
    OpenTurn: TypeAlias = Callable[[], TurnStream]


def run_turn(open_turn: OpenTurn) -> Generator[Item, None, None]:
    """The turn's text, piece by piece, then its result. Closing the generator cancels the turn.

    Raises:
        TurnTimeoutError: the turn reached its deadline; its text came before.
    """
    with open_turn() as turn:
        for chunk in turn:
            if chunk.text:  # a chunk may end inside a character
                yield chunk.text
        yield _in_time(turn.result)


async def arun_turn(open_turn: OpenTurn) -> AsyncGenerator[Item, None]:
    """``run_turn`` in a thread of its own; cancelling the task that reads cancels the turn."""
    relay = _Relay(open_turn)
    try:
        while (item := await relay.items.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        relay.close()


def _in_time(result: TurnResult) -> TurnResult:
    if result.finish_reason == "timeout":
        raise TurnTimeoutError(
            f"the turn reached its timeout after {result.completion_tokens} tokens; "
            "give it a longer timeout or a smaller max_tokens"
        )
    return result


class _Relay:
    """Carries items from the thread that runs a turn to the event loop that reads them.

    A thread of its own, because a turn lasts seconds: in the loop's small pool, turns would keep
    out everything else that waits there.
    """

    def __init__(self, open_turn: OpenTurn) -> None:
        self.items: asyncio.Queue[Item | BaseException | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._turn: TurnStream | None = None
        self._closed = False
        threading.Thread(target=copy_context().run, args=(self._run, open_turn), name="sfi-turn").start()

    def close(self) -> None:
        """Cancel the turn, also one that is still being opened."""
        with self._lock:
            self._closed = True
        if self._turn is not None:
            self._turn.close()

    def _run(self, open_turn: OpenTurn) -> None:
        try:
            for item in run_turn(lambda: self._opened(open_turn)):
                self._put(item)
        except BaseException as error:
            self._put(error)
        else:
            self._put(None)

    def _opened(self, open_turn: OpenTurn) -> TurnStream:
        turn = open_turn()
        with self._lock:
            self._turn = turn
            closed = self._closed
        if closed:
            turn.close()
        return turn

    def _put(self, item: Item | BaseException | None) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody reads any more
            self._loop.call_soon_threadsafe(self.items.put_nowait, item)
