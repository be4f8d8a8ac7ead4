"""A runtime on the bus: it answers requests and tells what it does."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from sfi_agent.errors import PluginError
from sfi_mqtt.answers import Error
from sfi_mqtt.backoff import Backoff, bounded
from sfi_mqtt.broker import Broker
from sfi_mqtt.desk import Desk, Limits
from sfi_mqtt.events import MqttEvents
from sfi_mqtt.headers import Message
from sfi_mqtt.messages import base_topic, read_status
from sfi_mqtt.outbox import Outbox
from sfi_mqtt.replies import Piece, Replies
from sfi_mqtt.station import Station

if TYPE_CHECKING:
    from sfi_agent.runtime.runtime import Runtime

log = logging.getLogger(__name__)


class BusService(MqttEvents):
    """Answers requests for ``runtime`` on ``sfi/<name>/requests``, and publishes its events and status.

    Neither decoding nor an answer waits for the broker. Answers are never dropped: while the broker is
    away what there is of them is kept, once, and a request that comes again is answered again, not run
    again. Call ``close`` at the end, before the runtime's own, or use it as a context manager.

    Args:
        url: where the broker is, as for :class:`MqttEvents`.
        runtime: what answers; this object is one of its observers, and hears of no other runtime.
        name: of the runtime in the topics; no other on this broker may have it.
        limits: what is taken on.
        grace: seconds that running turns get at ``close``.
        password, queue_size, details, backoff: as for :class:`MqttEvents`.

    Raises:
        PluginError: the runtime has a service of this name already.
        SettingError: a value is not allowed. A broker that cannot be reached is logged and tried again.
    """

    def __init__(
        self,
        url: str | Broker,
        runtime: Runtime,
        *,
        name: str,
        limits: Limits | None = None,
        grace: float = 10.0,
        password: str | None = None,
        queue_size: int = 10_000,
        details: bool = False,
        backoff: Backoff | None = None,
    ) -> None:
        self._runtime, self._grace, limits = runtime, bounded("grace", grace), limits or Limits()
        self._replies = Replies(limits.remembered)
        self._desk = Desk(runtime, self._replies, f"{base_topic(name)}/replies/", limits)
        super().__init__(
            url, runtime=name, password=password, queue_size=queue_size, details=details, backoff=backoff
        )

    @property
    def unanswerable(self) -> int:
        """Requests that named no usable topic for an answer."""
        return self._desk.unanswerable

    def close(self, timeout: float = 5.0) -> None:
        """Refuse new requests, let turns end or refuse them, publish all answers, then as MqttEvents."""
        if not self._closed:
            self._desk.close(self._grace)
            self._runtime.observers.remove(self)
        super().close(timeout)

    def _start(self) -> None:
        """Not before the runtime has it: a refused one would tell that the name is gone."""
        try:
            self._runtime.observers.add(self)
        except PluginError:
            self._connection.abandon()
            raise
        super()._start()

    def _wake_by(self, wake: Callable[[], None]) -> None:
        super()._wake_by(wake)
        self._replies.wake = wake

    def _station(self) -> Station:
        runtime = self._runtime
        about = {
            "serves": True,
            "model": runtime.name,
            "policy": runtime.policy.model_dump(),
            "window": runtime.window,
        }
        return _ServingStation(self._topic, self._outbox, about, self._desk, self._replies)


class _ServingStation(Station):
    """Publishes answers before events, and hands requests to a desk.

    It hears its own status, too: what is retained there must be true while we answer, and whoever had the
    name before us says ``offline`` at its end, or its last will does, a minute late.
    """

    def __init__(
        self, topic: str, outbox: Outbox, about: dict[str, Any], desk: Desk, replies: Replies
    ) -> None:
        super().__init__(topic, outbox, about)
        self._desk, self._replies = desk, replies
        self._others, self._untold = set[str](), False

    def topics(self) -> tuple[str, ...]:
        return f"{self._topic}/requests", f"{self._topic}/status"

    def received(self, message: Message) -> None:
        if message.topic == f"{self._topic}/status":
            self._heard(message)
        else:
            self._desk.received(message)

    def take(self, limit: int) -> Sequence[Any]:
        if self._untold and limit:
            self._untold = False
            return [self.hello()]
        return self._replies.take(limit) or super().take(limit)

    def messages(self, unit: Any) -> Sequence[Message]:
        if isinstance(unit, Message):
            return [unit]
        return [unit.message] if isinstance(unit, Piece) else super().messages(unit)

    def refused(self, unit: Any, why: str) -> None:
        if isinstance(unit, Piece):
            log.warning("an answer fails: %s", why)
            self._replies.fail(unit.of, Error(code="too_large", message=why))
        elif isinstance(unit, tuple):
            super().refused(unit, why)

    def give_back(self, units: Sequence[Any]) -> None:
        self._replies.give_back(unit for unit in units if isinstance(unit, Piece))
        super().give_back([unit for unit in units if isinstance(unit, tuple)])  # a hello comes anyway

    def _heard(self, message: Message) -> None:
        """A status of this name, published just now: where it is not ours, ours is said again."""
        if message.retain or (status := read_status(message.payload)) is None:
            return
        if status.status == "online":
            if status.instance in {self._about["instance"], *self._others}:
                return
            self._others.add(status.instance)  # once: it says its own again when it hears ours
            log.warning(
                "another runtime answers on %s/requests as well, and each request is run by both: end one of "
                "them, or give it another name",
                self._topic,
            )
        self._untold = True
        self._replies.wake()
