"""The plugin that publishes a runtime's events."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import TracebackType
from typing import Self

from sfi_agent.events import Event, RuntimeStarted
from sfi_agent.hookspecs import hookimpl
from sfi_mqtt.backoff import Backoff
from sfi_mqtt.broker import Broker
from sfi_mqtt.connection import Connection
from sfi_mqtt.messages import base_topic
from sfi_mqtt.outbox import Outbox
from sfi_mqtt.station import Station

log = logging.getLogger(__name__)


class MqttEvents:
    """Publishes every event of the runtimes whose registry has it: ``Registry(extra=[MqttEvents(...)])``.

    Decoding never waits for the broker: events leave through a queue and a thread. While the broker is
    away the queue keeps the newest; a reconnection publishes them. Every message tells how many were
    dropped. Call ``close`` at the end, or use it as a context manager.

    Args:
        url: ``mqtt://[user[:password]@]host[:port]``, or ``mqtts://`` for TLS; or a Broker, which knows
            certificates as well.
        runtime: name in the topics: ``sfi/<runtime>/events/<kind>`` and ``sfi/<runtime>/status``.
        password: instead of the URL's; where neither gives one, ``SFI_MQTT_PASSWORD``.
        queue_size: events kept while the broker is away.
        details: publish the events of :mod:`sfi_agent.details`, too: everybody who may read the topics reads
            the text of prompts and answers, and a message may have 100 kB (give a smaller ``queue_size``).
        backoff: how long to wait between attempts to connect.

    Raises:
        SettingError: a value is not allowed. A broker that cannot be reached is logged and tried again.
    """

    def __init__(
        self,
        url: str | Broker,
        *,
        runtime: str,
        password: str | None = None,
        queue_size: int = 10_000,
        details: bool = False,
        backoff: Backoff | None = None,
    ) -> None:
        self.wants_details = details
        self._topic = base_topic(runtime)
        self.name = f"sfi_mqtt:{runtime}"
        self._outbox = Outbox(queue_size)
        self._closed = False
        self._told = self._station()
        broker = Broker.of(url, password)
        self._connection = Connection(broker, runtime, self._told, backoff or Backoff())
        self._wake_by(self._connection.wake)
        self._start()

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted the connection."""
        return self._connection.connected

    @property
    def problem(self) -> str:
        """Why there is no connection; empty if there is one, or before the first attempt ended."""
        return self._connection.problem

    @property
    def refused(self) -> bool:
        """Whether that is the login."""
        return self._connection.refused

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
        if isinstance(event, RuntimeStarted):
            self._told.met(event)
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
        self._wake_by(_nobody)  # else this and the connection would know each other, and what they serve
        left = self._outbox.clear()
        if left or not ended:
            log.warning("%s: closed with %d events unpublished", self._connection.broker.address, left)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _station(self) -> Station:
        return Station(self._topic, self._outbox)

    def _start(self) -> None:
        self._connection.start()

    def _wake_by(self, wake: Callable[[], None]) -> None:
        """Have ``wake`` called whenever there is something to publish."""
        self._outbox.wake = wake


def _nobody() -> None:
    """There is no connection to wake any more."""
