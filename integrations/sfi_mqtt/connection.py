"""A connection to a broker, kept up in a thread of its own; the only file that knows aiomqtt."""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from secrets import token_hex
from typing import Any, Protocol

try:
    import aiomqtt
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("sfi_mqtt needs aiomqtt: pip install 'sfi-agent[mqtt]'") from error

from sfi_mqtt.backoff import Backoff
from sfi_mqtt.broker import Broker

log = logging.getLogger(__name__)
BATCH = 64
"""Messages on their way at a time."""


@dataclass(frozen=True)
class Message:
    """Something to publish; retained if the broker should show it to whoever subscribes later."""

    topic: str
    payload: bytes
    retain: bool = False


class Source(Protocol):
    """What a connection has to say."""

    def will(self) -> Message:
        """What the broker is to publish when the connection breaks."""

    def hello(self) -> Message:
        """What comes first on every connection."""

    def goodbye(self) -> Message:
        """What comes last before a connection is closed on purpose."""

    def take(self, limit: int) -> Sequence[Any]:
        """The next things to publish, at most ``limit``."""

    def message(self, taken: Any) -> Message | None:
        """The message of a thing that was taken, or None if it has none."""

    def give_back(self, taken: Sequence[Any]) -> None:
        """Take things back that were not published for certain: they are the next again."""


class Connection:
    """Publishes what a source has, with QoS 1: again after a reconnection if not acknowledged.

    Args:
        broker: where to connect to.
        name: begins the client's identifier.
        source: used from this connection's thread.
        backoff: how long to wait between attempts.
    """

    def __init__(self, broker: Broker, name: str, source: Source, backoff: Backoff) -> None:
        self.broker, self.source, self.backoff = broker, source, backoff
        self.connected = False
        # The same at every attempt: the broker then ends a half-open predecessor, and publishes its
        # will, before our hello and not a minute after it.
        self._identifier = f"sfi-{name}-{token_hex(4)}"
        self._tls = ssl.create_default_context() if broker.tls else None
        self._loop = asyncio.SelectorEventLoop()  # aiomqtt needs one that watches sockets
        self._loop.set_exception_handler(_leftover)
        self._wake, self._closing = asyncio.Event(), asyncio.Event()
        self._grace = 0.0
        self._told = ""
        self._main = self._loop.create_task(self._stay_up())
        self._thread = threading.Thread(target=self._run, name=self._identifier, daemon=True)
        self._thread.start()

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

    def _call(self, function: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(function)

    def _run(self) -> None:
        try:
            with suppress(asyncio.CancelledError):
                self._loop.run_until_complete(self._main)
        except Exception as error:  # nobody waits for this thread: the log is where it can be seen
            if "interpreter shutdown" not in str(error):  # without close(), the process may end first
                log.exception("%s: publishing stopped", self.broker.address)
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
                async with self._client() as client:
                    failures = 0
                    await self._talk(client)
                    return
            except (aiomqtt.MqttError, OSError) as error:
                self._tell(str(error))
            if last:
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), self.backoff.delay(failures))
            failures += 1

    def _client(self) -> aiomqtt.Client:
        will = self.source.will()
        return aiomqtt.Client(
            self.broker.host,
            self.broker.port,
            username=self.broker.user,
            password=self.broker.password,
            identifier=self._identifier,
            will=aiomqtt.Will(will.topic, will.payload, qos=1, retain=will.retain),
            tls_context=self._tls,
            keepalive=30,
            max_inflight_messages=BATCH,
            logger=logging.getLogger(f"{__name__}.wire"),
        )

    async def _talk(self, client: aiomqtt.Client) -> None:
        """Publish until closed; raises MqttError when the connection breaks."""
        client.pending_calls_threshold = BATCH
        try:
            await _first(_watch(client), self._pump(client), self._deadline())
        finally:
            self.connected = False
        await _publish(client, self.source.goodbye())

    async def _pump(self, client: aiomqtt.Client) -> None:
        await _publish(client, self.source.hello())
        self.connected, self._told = True, ""
        while True:
            self._wake.clear()
            while taken := self.source.take(BATCH):
                await self._send(client, taken)
            if self._closing.is_set():
                return
            await self._wake.wait()

    async def _send(self, client: aiomqtt.Client, taken: Sequence[Any]) -> None:
        messages = [message for one in taken if (message := self.source.message(one))]
        try:
            await asyncio.gather(*(_publish(client, message) for message in messages))
        except BaseException:
            self.source.give_back(taken)
            raise

    async def _deadline(self) -> None:
        await self._closing.wait()
        await asyncio.sleep(self._grace)

    def _tell(self, problem: str) -> None:
        """Log a problem once, however often it comes again."""
        if problem != self._told:
            log.warning("%s: %s; trying again", self.broker.address, problem or "connection lost")
        self._told = problem or "connection lost"


async def _publish(client: aiomqtt.Client, message: Message) -> None:
    await client.publish(message.topic, message.payload, qos=1, retain=message.retain)


async def _watch(client: aiomqtt.Client) -> None:
    """Raises MqttError when the connection breaks: nothing is subscribed, so nothing comes."""
    async for _ in client.messages:
        pass


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
