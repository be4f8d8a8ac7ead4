"""The plugin that publishes a runtime's events."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from types import TracebackType
from typing import Literal

from sfi_agent.events import Event
from sfi_agent.hookspecs import hookimpl
from sfi_mqtt.backoff import Backoff
from sfi_mqtt.broker import Broker
from sfi_mqtt.connection import Connection, Message
from sfi_mqtt.messages import base_topic, encode, encode_status, kind_of
from sfi_mqtt.outbox import Outbox, Pending

log = logging.getLogger(__name__)


class MqttEvents:
    """Publishes every event of the runtimes that it is registered with: ``registry.add(MqttEvents(...))``.

    Decoding never waits for the broker: events leave through a queue and a thread. While the broker is
    away the queue keeps the newest; a reconnection publishes them. Every message tells how many were
    dropped. Call ``close`` at the end, or use it as a context manager.

    Args:
        url: ``mqtt://[user[:password]@]host[:port]``, or ``mqtts://`` for TLS.
        runtime: name in the topics: ``sfi/<runtime>/events/<kind>`` and ``sfi/<runtime>/status``.
        password: instead of the URL's; where neither gives one, ``SFI_MQTT_PASSWORD``.
        queue_size: events kept while the broker is away.
        backoff: how long to wait between attempts to connect.

    Raises:
        SettingError: a value is not allowed. A broker that cannot be reached is logged and tried again.
    """

    def __init__(
        self,
        url: str,
        *,
        runtime: str,
        password: str | None = None,
        queue_size: int = 10_000,
        backoff: Backoff | None = None,
    ) -> None:
        self._topic = base_topic(runtime)
        self.name = f"sfi_mqtt:{runtime}"
        self._outbox = Outbox(queue_size)
        self._closed = False
        self._connection = Connection(
            Broker.of(url, password), runtime, _Station(self._topic, self._outbox), backoff or Backoff()
        )
        self._outbox.wake = self._connection.wake

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted the connection."""
        return self._connection.connected

    @property
    def waiting(self) -> int:
        """Events in the queue."""
        return len(self._outbox)

    @property
    def dropped(self) -> int:
        """Events dropped so far."""
        return self._outbox.dropped

    @hookimpl
    def sfi_on_event(self, event: Event) -> None:
        """Queue an event; after ``close`` it is counted as dropped."""
        if self._closed:
            self._outbox.discard()
        else:
            self._outbox.put(event)

    def close(self, timeout: float = 5.0) -> None:
        """Publish what is left and ``offline``, then disconnect, in ``timeout`` seconds at most."""
        if self._closed:
            return
        self._closed = True
        ended = self._connection.close(timeout)
        left = self._outbox.clear()
        if left or not ended:
            log.warning("%s: closed with %d events unpublished", self._connection.broker.address, left)

    def __enter__(self) -> MqttEvents:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Station:
    """What a connection publishes: the status, and the events of an outbox."""

    def __init__(self, topic: str, outbox: Outbox) -> None:
        self._topic = topic
        self._outbox = outbox
        self.take = outbox.take
        self.give_back = outbox.give_back

    def will(self) -> Message:
        return self._status("offline", None)

    def hello(self) -> Message:
        return self._status("online", datetime.now(UTC))

    def goodbye(self) -> Message:
        return self._status("offline", datetime.now(UTC))

    def message(self, taken: Pending) -> Message | None:
        try:
            payload = encode(taken, self._outbox.dropped)
        except Exception:  # an event of somebody else's plugin
            log.exception("%s cannot be written as JSON and is dropped", type(taken.event).__name__)
            self._outbox.discard()
            return None
        return Message(f"{self._topic}/events/{kind_of(type(taken.event))}", payload)

    def _status(self, status: Literal["online", "offline"], time: datetime | None) -> Message:
        payload = encode_status(status, time, self._outbox.dropped)
        return Message(f"{self._topic}/status", payload, retain=True)
