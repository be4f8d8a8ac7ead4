"""A connection to a broker, kept up in a thread of its own; the only file that knows aiomqtt."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from secrets import token_hex
from typing import Any

try:
    import aiomqtt
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("sfi_mqtt needs aiomqtt: pip install 'sfi-agent[mqtt]'") from error

from sfi_mqtt.backoff import Backoff
from sfi_mqtt.broker import Broker
from sfi_mqtt.headers import Message, headed, unheaded
from sfi_mqtt.source import Source

log = logging.getLogger(__name__)
WINDOW = 32
"""Units on their way at a time."""
KEPT_SECONDS = 3600
"""How long the broker keeps our subscriptions, and what came for them, while we are away (MQTT 5)."""
UNKNOWN_PROTOCOL = 132
"""The reason with which a broker refuses MQTT 5, also in the translation of a 3.1.1 broker's answer."""
LOGIN = (134, 135)
"""Those with which it refuses a user or a password, likewise."""


class Connection:
    """Publishes what a source has, again after a reconnection if not acknowledged, and hears for it.

    Speaks MQTT 5, or 3.1.1 where the broker refuses that; properties then travel in the payload
    (:mod:`sfi_mqtt.headers`).

    Args:
        broker: where to connect to.
        name: begins the client's identifier.
        source: used from this connection's thread.
        backoff: how long to wait between attempts.

    Attributes:
        connected: whether the broker has accepted the connection.
        was_connected: whether it ever was.
        problem: why there is no connection; empty if there is one, or before the first attempt ended.
        refused: whether the problem is the login, which no further attempt mends.
    """

    def __init__(self, broker: Broker, name: str, source: Source, backoff: Backoff) -> None:
        self.broker, self.source, self.backoff = broker, source, backoff
        self.connected, self.was_connected, self.problem, self.refused = False, False, "", False
        # The same at every attempt: the broker then ends a half-open predecessor, and publishes its
        # will, before our hello and not a minute after it.
        self._identifier = f"sfi-{name}-{token_hex(4)}"
        self._tls = broker.context()
        self._protocol: aiomqtt.ProtocolVersion | None = None
        self._resumes = False
        self._loop = asyncio.SelectorEventLoop()  # aiomqtt needs one that watches sockets
        self._loop.set_exception_handler(_leftover)
        self._wake, self._closing, self._room = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._unacknowledged: dict[int, Any] = {}
        self._grace = 0.0
        self._main = self._loop.create_task(self._stay_up())
        self._thread = threading.Thread(target=self._run, name=self._identifier, daemon=True)

    def start(self) -> None:
        """Begin; the source must be ready to be used."""
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

    def _call(self, function: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(function)

    def _run(self) -> None:
        try:
            with suppress(asyncio.CancelledError):
                self._loop.run_until_complete(self._main)
        except Exception as error:  # nobody waits for this thread: the log is where it can be seen
            if "shutdown" not in str(error):  # without close(), the process may end while we connect
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
                self._protocol = self._protocol or await self._spoken()
                async with self._client() as client:
                    failures = 0
                    await self._talk(client)
                    return
            except (aiomqtt.MqttError, OSError) as error:
                self._tell(error)
            if last:
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), self.backoff.delay(failures))
            failures += 1

    async def _spoken(self) -> aiomqtt.ProtocolVersion:
        """What the broker speaks, asked with the plainest greeting of MQTT 5.

        A broker of 3.1.1 refuses that one as it should; one with a will or properties it cannot even read.
        """
        try:
            async with aiomqtt.Client(protocol=aiomqtt.ProtocolVersion.V5, **self._login()):
                return aiomqtt.ProtocolVersion.V5
        except aiomqtt.MqttError as error:
            if _reason(error) != UNKNOWN_PROTOCOL:
                raise
            return aiomqtt.ProtocolVersion.V311

    def _login(self) -> dict[str, Any]:
        return {
            "hostname": self.broker.host,
            "port": self.broker.port,
            "username": self.broker.user,
            "password": self.broker.password,
            "tls_context": self._tls,
            "logger": logging.getLogger(f"{__name__}.wire"),
        }

    @property
    def _v5(self) -> bool:
        return self._protocol == aiomqtt.ProtocolVersion.V5

    def _client(self) -> aiomqtt.Client:
        will = self.source.will()
        return aiomqtt.Client(
            **self._login(),
            identifier=self._identifier,
            protocol=self._protocol,
            **self._session(),
            will=aiomqtt.Will(will.topic, will.payload, 1, will.retain) if will else None,
            keepalive=30,
            max_inflight_messages=WINDOW,
            # Without this the kernel holds a small message back until the one before is acknowledged.
            socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        )

    def _session(self) -> dict[str, Any]:
        """Settings by which requests that come while we are away wait at the broker."""
        if not (self._v5 and self.source.topics()):
            return {}
        kept = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho's
        kept.SessionExpiryInterval = KEPT_SECONDS
        return {"clean_start": not self._resumes, "properties": kept}

    async def _talk(self, client: aiomqtt.Client) -> None:
        """Publish and listen until closed; raises MqttError when the connection breaks."""
        client.pending_calls_threshold = 2 * WINDOW
        try:
            await _first(self._listen(client), self._pump(client), self._deadline())
        finally:
            self.connected = False
            self.source.give_back([*self._unacknowledged.values()])
            self._unacknowledged.clear()
        if topics := [*self.source.topics()]:
            await client.unsubscribe(topics)
        if goodbye := self.source.goodbye():
            await self._publish(client, goodbye)

    async def _listen(self, client: aiomqtt.Client) -> None:
        """Hand on what comes; raises MqttError when the connection breaks."""
        async for came in client.messages:
            payload = came.payload if isinstance(came.payload, bytes) else b""
            message = Message(str(came.topic), payload, bool(came.retain))
            _confirm(client)
            self.source.received(_described(message, came.properties) if self._v5 else unheaded(message))

    async def _pump(self, client: aiomqtt.Client) -> None:
        for topic in self.source.topics():
            await self._subscribe(client, topic)
        self._resumes = True
        if hello := self.source.hello():  # now, for who reads it may ask at once
            await self._publish(client, hello)
        self.connected, self.was_connected, self.problem, self.refused = True, True, "", False
        self.source.connected()
        async with asyncio.TaskGroup() as sending:
            while True:
                self._wake.clear()
                while units := self.source.take(WINDOW - len(self._unacknowledged)):
                    for unit in units:
                        self._unacknowledged[id(unit)] = unit
                        sending.create_task(self._send(client, unit))
                    await self._some_room()
                if self._closing.is_set():
                    return
                await self._wake.wait()

    async def _subscribe(self, client: aiomqtt.Client, topic: str) -> None:
        granted = await client.subscribe(topic, qos=1)
        if any(getattr(code, "value", code) >= 128 for code in granted):
            raise aiomqtt.MqttError(f"not allowed to subscribe to {topic}")

    async def _some_room(self) -> None:
        """Wait until one more unit may be on its way."""
        while len(self._unacknowledged) >= WINDOW:
            self._room.clear()
            await self._room.wait()

    async def _send(self, client: aiomqtt.Client, unit: Any) -> None:
        """Publish until acknowledged; a connection that breaks ends the pump, and this with it."""
        with suppress(aiomqtt.MqttError):
            for message in self.source.messages(unit):
                await self._publish(client, message)
            del self._unacknowledged[id(unit)]
            _confirm(client)
        self._room.set()

    async def _deadline(self) -> None:
        await self._closing.wait()
        await asyncio.sleep(self._grace)

    async def _publish(self, client: aiomqtt.Client, message: Message) -> None:
        payload, properties = message.payload, None
        if self._v5:
            properties = _properties(message)
        else:
            payload = headed(message)
        # The broker has as long as the connection lasts: a lost one ends this.
        await client.publish(
            message.topic, payload, message.qos, message.retain, properties, timeout=math.inf
        )

    def _tell(self, error: Exception) -> None:
        """Log a problem once, however often it comes again."""
        problem, refused = " ".join(str(error).split()) or "connection lost", _reason(error) in LOGIN
        if refused:
            who = f"user {self.broker.user!r}" if self.broker.user else "a client without user and password"
            problem = f"the broker refuses {who}: check the URL's user and the password ({problem})"
        if problem != self.problem:
            log.warning("%s: %s; trying again", self.broker.address, problem)
        self.problem, self.refused = problem, refused
        self.source.failed()


def _reason(error: Exception) -> int | None:
    """With which a broker refused a connection; None if it did not."""
    value = getattr(getattr(error, "rc", None), "value", None)
    return value if isinstance(value, int) else None


def _confirm(client: aiomqtt.Client) -> None:
    """Tell the broker's kernel at once that its acknowledgement came, where ours can (Linux).

    Ours would wait 40 ms for something to send along, and the broker's, as it is mostly configured, would
    hold an answer back until then: the first token of a turn would be that much later.
    """
    used = client._client.socket()
    if hasattr(socket, "TCP_QUICKACK") and isinstance(used, socket.socket):  # a TLS socket is one, too
        with suppress(OSError):  # closed meanwhile
            used.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def _properties(message: Message) -> Properties | None:
    """Those of a request or an answer; an event has none, for making them takes longer than the rest."""
    if message.correlation is None:
        return None
    made = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho's
    made.ContentType = "application/json"
    if message.reply_to is not None:
        made.ResponseTopic = message.reply_to
    if message.correlation is not None:
        made.CorrelationData = message.correlation
    if message.expiry is not None:
        made.MessageExpiryInterval = message.expiry
    return made


def _described(message: Message, properties: Properties | None) -> Message:
    """The message with what its properties say."""
    return Message(
        message.topic,
        message.payload,
        message.retain,
        reply_to=getattr(properties, "ResponseTopic", None),
        correlation=getattr(properties, "CorrelationData", None),
        expiry=getattr(properties, "MessageExpiryInterval", None),
        content_type=getattr(properties, "ContentType", None),
    )


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
