"""A connection to a broker, kept up in a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from secrets import token_hex
from typing import Any

from sfi_agent.errors import ServiceError
from sfi_mqtt.backoff import Backoff
from sfi_mqtt.broker import Broker
from sfi_mqtt.source import Source
from sfi_mqtt.wire import WINDOW, Line, Lost, TooLargeError, Wire, refuses_login

log = logging.getLogger(__name__)


class Connection:
    """Publishes what a source has, again after a reconnection if not acknowledged, and hears for it.

    Args:
        broker: where to connect to.
        name: begins the client's identifier.
        source: used from this connection's thread.
        backoff: how long to wait between attempts.
        gives_up: whether whoever made it ends where the first attempt fails: ``check`` then raises why.

    Attributes:
        connected: whether the broker has accepted the connection.
        was_connected: whether it ever was.
        problem: why there is no connection; empty if there is one, or before the first attempt ended.
        refused: whether the problem is the login, which no further attempt mends.
    """

    def __init__(
        self, broker: Broker, name: str, source: Source, backoff: Backoff, gives_up: bool = False
    ) -> None:
        self.broker, self.source, self.backoff = broker, source, backoff
        self.connected, self.was_connected, self.problem, self.refused = False, False, "", False
        identifier = f"sfi-{name}-{token_hex(4)}"
        self._wire, self._resumes = Wire(broker, identifier), False
        self._loop = asyncio.SelectorEventLoop()  # the wire needs one that watches sockets
        self._loop.set_exception_handler(_leftover)
        self._wake, self._closing, self._room = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._gives_up = gives_up
        self._unacknowledged: dict[int, Any] = {}
        self._grace = 0.0
        self._main = self._loop.create_task(self._stay_up())
        self._thread = threading.Thread(target=self._run, name=identifier, daemon=True)

    def start(self) -> None:
        """Begin; the source must be ready to be used."""
        self._thread.start()

    def check(self) -> None:
        """Raise ServiceError where the first attempt to connect failed."""
        if self.problem and not self.was_connected:
            mend = "" if self.refused else "; start a broker there, or name another one"
            raise ServiceError(f"{self.broker.address}: {self.problem}{mend}")

    def abandon(self) -> None:
        """End what was never started; nothing is connected."""
        self._main.cancel()
        self._thread.start()
        self._thread.join()

    def wake(self) -> None:
        """Say, from any thread, that the source has something again."""
        self._call(self._wake.set)

    def close(self, timeout: float) -> bool:
        """Publish what is left and the goodbye, then disconnect; False if ``timeout`` seconds passed."""
        self._grace = timeout / 2
        self._call(self._closing.set)
        self._call(self._wake.set)
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._call(self._main.cancel)
            return False
        return True

    def _call(self, function: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(function)

    def _run(self) -> None:
        try:
            with suppress(asyncio.CancelledError):
                self._loop.run_until_complete(self._main)
        except Exception as error:  # nobody waits for this thread: the log is where it can be seen
            told = self._gives_up and not self.was_connected  # by `check`
            if "shutdown" not in str(error) and not told:  # without close(), it may end while we connect
                log.exception("%s: publishing stopped", self.broker.address)
            self.problem = " ".join(str(error).split()) or type(error).__name__
        finally:
            with suppress(RuntimeError):  # the same
                self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    async def _stay_up(self) -> None:
        """Connect, and again whenever that fails or ends, until closed; closing tries once more."""
        failures = 0
        while True:
            last = self._closing.is_set()
            try:
                will, topics = self.source.will(), self.source.topics()
                async with self._wire.line(will, kept=bool(topics), resumes=self._resumes) as line:
                    failures = 0
                    await self._talk(line)
                    return
            except (Lost, OSError) as error:
                self._tell(error, last)
            if last:
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), self.backoff.delay(failures))
            failures += 1

    async def _talk(self, line: Line) -> None:
        """Publish and listen until closed; raises Lost when the connection breaks."""
        try:
            await _first(line.listen(self.source.received), self._pump(line), self._deadline())
        except (Lost, OSError):
            raise
        except Exception:  # the line is closed in good order, and the broker would publish no will
            await self._leave(line)
            raise
        finally:
            self.source.give_back([*self._unacknowledged.values()])
            self._unacknowledged.clear()
            self.connected = False  # last: whoever sees it sees what waits again
        await self._leave(line)

    async def _leave(self, line: Line) -> None:
        """Hear nothing any more, and say goodbye."""
        if topics := self.source.topics():
            await line.unsubscribe(topics)
        if goodbye := self.source.goodbye():
            await line.publish(goodbye)

    async def _pump(self, line: Line) -> None:
        if topics := self.source.topics():
            await line.subscribe(topics)
        self._resumes = True
        if hello := self.source.hello():  # now, for who reads it may ask at once
            await line.publish(hello)
        if self.problem:  # it was told, so its end is
            log.warning("%s: connected again", self.broker.address)
        self.connected, self.was_connected, self.problem, self.refused = True, True, "", False
        self.source.connected()
        async with asyncio.TaskGroup() as sending:
            while True:
                self._wake.clear()
                while units := self.source.take(WINDOW - len(self._unacknowledged)):
                    for unit in units:
                        self._unacknowledged[id(unit)] = unit
                        sending.create_task(self._send(line, unit))
                    await self._some_room()
                if self._closing.is_set():
                    return
                await self._wake.wait()

    async def _some_room(self) -> None:
        """Wait until one more unit may be on its way."""
        while len(self._unacknowledged) >= WINDOW:
            self._room.clear()
            await self._room.wait()

    async def _send(self, line: Line, unit: Any) -> None:
        """Publish until acknowledged; a connection that breaks ends the pump, and this with it."""
        with suppress(Lost):
            try:
                messages = self.source.messages(unit)
                for message in messages:  # all of them before the first: what is refused was not published
                    line.check(message)
                for message in messages:
                    await line.publish(message)
            except TooLargeError as error:
                self.source.refused(unit, str(error))
            del self._unacknowledged[id(unit)]
            line.confirm()
        self._room.set()

    async def _deadline(self) -> None:
        await self._closing.wait()
        await asyncio.sleep(self._grace)

    def _tell(self, error: Exception, last: bool) -> None:
        """Log a problem once, however often it comes again; not where whoever asked raises it."""
        problem, refused = " ".join(str(error).split()) or "connection lost", refuses_login(error)
        if refused:
            who = f"user {self.broker.user!r}" if self.broker.user else "a client without user and password"
            problem = f"the broker refuses {who}: check the URL's user and the password ({problem})"
        if problem != self.problem and not (self._gives_up and not self.was_connected):
            again = "" if last or refused else "; trying again"
            log.warning("%s: %s%s", self.broker.address, problem, again)
        self.problem, self.refused = problem, refused
        self.source.failed()


async def _first(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Run all until one ends, cancel the others, and raise what it raised."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        ended = [task for task in tasks if task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in ended:
        task.result()


def _leftover(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A lost connection leaves futures behind that nobody asks; it has been told already."""
    log.debug("%s", context.get("message"), exc_info=context.get("exception"))
