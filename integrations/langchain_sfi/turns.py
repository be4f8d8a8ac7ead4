"""A turn as events and then its result, for threads and for event loops."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import closing, suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from sfi_agent import TurnResult
    from sfi_agent.chat import ChatStream
    from sfi_agent.tools import Event

    Item: TypeAlias = Event | TurnResult


def run_turn(turn: ChatStream) -> Generator[Item, None, None]:
    """The turn's events, one by one, then its result. Closing the generator cancels the turn."""
    with turn:
        for events in turn:
            yield from events
        yield turn.result


async def arun_turn(open_turn: Callable[[], ChatStream]) -> AsyncGenerator[Item, None]:
    """``run_turn`` in a thread of its own; cancelling the task that reads cancels the turn.

    ``open_turn`` is called in that thread too, for it may load a model.
    """
    relay = _Relay(open_turn)
    try:
        while (item := await relay.items.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        relay.leave()


class _Relay:
    """Carries items from the thread that runs a turn to the event loop that reads them.

    A thread of its own, because a turn lasts seconds: in the loop's small pool, turns would keep
    out everything else that waits there.

    Attributes:
        items: the turn's items, then None; or the error that ended it.
    """

    def __init__(self, open_turn: Callable[[], ChatStream]) -> None:
        self.items: asyncio.Queue[Item | BaseException | None] = asyncio.Queue()
        self._unread = threading.Event()
        self._turn: ChatStream | None = None
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=copy_context().run, args=(self._run, open_turn), name="sfi-turn").start()

    def leave(self) -> None:
        """Nobody reads any more: the turn ends before its next step, in its own thread."""
        self._unread.set()
        if self._turn is not None:
            self._turn.cancel()

    def _run(self, open_turn: Callable[[], ChatStream]) -> None:
        try:
            self._carry(open_turn())
        except BaseException as error:
            self._put(error)
        else:
            self._put(None)

    def _carry(self, turn: ChatStream) -> None:
        self._turn = turn
        if self._unread.is_set():
            return turn.close()
        with closing(run_turn(turn)) as items:
            for item in items:
                if self._unread.is_set():
                    return
                self._put(item)

    def _put(self, item: Item | BaseException | None) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody reads any more
            self._loop.call_soon_threadsafe(self.items.put_nowait, item)
