"""Lines to a broker, over MQTT 5 or 3.1.1; the only file that knows aiomqtt."""

from __future__ import annotations

import logging
import math
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

from sfi_agent.errors import SettingError

try:
    import aiomqtt
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties
except ModuleNotFoundError as error:
    raise SettingError("sfi_mqtt needs aiomqtt: pip install 'sfi-agent[mqtt]'") from error

from sfi_mqtt.broker import Broker
from sfi_mqtt.headers import Message, headed, unheaded

log = logging.getLogger(__name__)
Lost = aiomqtt.MqttError
"""There is no line, or it broke."""
HEADERS = 512
"""Bytes of a packet beside topics, correlation data and payload, at most."""
WINDOW = 32
"""Messages on their way at a time."""
KEPT_SECONDS = 3600
"""How long the broker keeps our subscriptions, and what came for them, while we are away (MQTT 5)."""
UNKNOWN_PROTOCOL = 132
"""The reason with which a broker refuses MQTT 5, also in the translation of a 3.1.1 broker's answer."""
LOGIN = (134, 135)
"""Those with which it refuses a user or a password, likewise."""


class TooLargeError(Lost):
    """A message that the broker says it would end the connection for."""


class Line:
    """An open connection; whoever waits for it is told by :data:`Lost` when it breaks.

    Args:
        client: connected.
        v5: whether it speaks MQTT 5; else properties travel in the payload (:mod:`sfi_mqtt.headers`).
    """

    def __init__(self, client: _Client, v5: bool) -> None:
        self._client, self._v5 = client, v5

    async def subscribe(self, topics: Sequence[str]) -> None:
        """Have what is published there come; raises Lost if the broker does not allow one of them, too.

        In one request: who hears of a runtime in one topic has not missed what it then says in another.
        """
        granted = await self._client.subscribe([(topic, 1) for topic in topics])
        for topic, code in zip(topics, granted, strict=True):
            if getattr(code, "value", code) >= 128:
                raise Lost(f"not allowed to subscribe to {topic}")

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        """Have nothing come from there any more."""
        await self._client.unsubscribe(list(topics))

    async def listen(self, received: Callable[[Message], None]) -> None:
        """Hand on what comes, without end."""
        async for came in self._client.messages:
            payload = came.payload if isinstance(came.payload, bytes) else b""
            message = Message(str(came.topic), payload, bool(came.retain))
            self.confirm()
            received(_described(message, came.properties) if self._v5 else unheaded(message))

    async def publish(self, message: Message) -> None:
        """Publish and, unless its QoS is 0, wait until that is acknowledged.

        Raises:
            Lost: the line broke.
            TooLargeError: nothing was sent: the line would break for it, each time again.
        """
        self.check(message)
        payload = message.payload if self._v5 else headed(message)
        properties = _properties(message) if self._v5 else None
        # The broker has as long as the connection lasts: a lost one ends this.
        await self._client.publish(
            message.topic, payload, message.qos, message.retain, properties, timeout=math.inf
        )

    def check(self, message: Message) -> None:
        """Raise TooLargeError for a message that would break the line."""
        size = len(message.payload)  # a broker that says how much it takes has properties for the headers
        names = len(message.topic) + len(message.reply_to or "") + len(message.correlation or b"")
        if (most := self._client.most_bytes) is not None and size + 4 * names + HEADERS > most:
            told = f"a message of {size} bytes is more than the broker takes, {most} with its headers"
            raise TooLargeError(f"{told}; send less, or have the broker take more")

    def confirm(self) -> None:
        """Tell the broker's kernel at once that its acknowledgement came, where ours can (Linux).

        Ours would wait 40 ms for something to send along, and the broker's, as it is mostly configured, would
        hold an answer back until then: the first token of a turn would be that much later.
        """
        used = self._client._client.socket()
        if hasattr(socket, "TCP_QUICKACK") and isinstance(used, socket.socket):  # a TLS socket is one, too
            with suppress(OSError):  # closed meanwhile
                used.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


class Wire:
    """Opens lines to a broker, one after another, in whichever protocol it speaks.

    Args:
        broker: where to connect to.
        identifier: of the client. The same at every attempt: the broker then ends a half-open predecessor,
            and publishes its will, before our hello and not a minute after it.
    """

    def __init__(self, broker: Broker, identifier: str) -> None:
        self._broker, self._identifier = broker, identifier
        self._tls = broker.context()
        self._protocol: aiomqtt.ProtocolVersion | None = None

    @asynccontextmanager
    async def line(self, will: Message | None, *, kept: bool, resumes: bool) -> AsyncIterator[Line]:
        """A line, until the block ends.

        Args:
            will: what the broker is to publish when the line breaks.
            kept: whether what comes while we are away is to wait at the broker, which takes MQTT 5.
            resumes: whether to go on with what waits there, if anything does.

        Raises:
            Lost: the broker refuses, is not reached, or the line broke.
            OSError: it is not reached.
        """
        self._protocol = self._protocol or await self._spoken()
        v5 = self._protocol == aiomqtt.ProtocolVersion.V5
        client = _Client(
            **self._login(),
            identifier=self._identifier,
            protocol=self._protocol,
            **(_session(resumes) if v5 and kept else {}),
            will=aiomqtt.Will(will.topic, will.payload, 1, will.retain) if will else None,
            keepalive=30,
            max_inflight_messages=WINDOW,
            # Without this the kernel holds a small message back until the one before is acknowledged.
            socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        )
        async with client:
            client.pending_calls_threshold = 2 * WINDOW
            yield Line(client, v5)

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
            "hostname": self._broker.host,
            "port": self._broker.port,
            "username": self._broker.user,
            "password": self._broker.password,
            "tls_context": self._tls,
            "logger": log,
        }


class _Client(aiomqtt.Client):
    """Knows how large a packet the broker takes; None where it does not say."""

    most_bytes: int | None = None

    def _on_connect(
        self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any = None
    ) -> None:
        self.most_bytes = getattr(properties, "MaximumPacketSize", None)
        super()._on_connect(client, userdata, flags, reason, properties)


def refuses_login(error: Exception) -> bool:
    """Whether a line was refused for its user or password."""
    return _reason(error) in LOGIN


def _reason(error: Exception) -> int | None:
    """With which a broker refused a connection; None if it did not."""
    value = getattr(getattr(error, "rc", None), "value", None)
    return value if isinstance(value, int) else None


def _session(resumes: bool) -> dict[str, Any]:
    """Settings by which what comes while we are away waits at the broker."""
    kept = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho's
    kept.SessionExpiryInterval = KEPT_SECONDS
    return {"clean_start": not resumes, "properties": kept}


def _properties(message: Message) -> Properties | None:
    """Those of a request or an answer; an event has none, for making them takes longer than the rest."""
    if message.correlation is None:
        return None
    made = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho's
    made.ContentType, made.CorrelationData = "application/json", message.correlation
    if message.reply_to is not None:
        made.ResponseTopic = message.reply_to
    if message.expiry is not None:
        made.MessageExpiryInterval = message.expiry
    return made


def _described(message: Message, properties: Properties | None) -> Message:
    """The message with what its properties say."""
    return replace(
        message,
        reply_to=getattr(properties, "ResponseTopic", None),
        correlation=getattr(properties, "CorrelationData", None),
        expiry=getattr(properties, "MessageExpiryInterval", None),
    )
