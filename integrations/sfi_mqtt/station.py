"""What a runtime's connection publishes: its status, its answers, its events, in this order."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from secrets import token_hex
from typing import Any, Literal

from sfi_agent.events import RuntimeStarted
from sfi_mqtt.headers import Message
from sfi_mqtt.messages import encode, encode_status, kind_of
from sfi_mqtt.outbox import Outbox, Pending
from sfi_mqtt.source import Source
from sfi_mqtt.wire import WINDOW

log = logging.getLogger(__name__)
BURST = 1000
"""Waiting events from which on they leave in bundles."""
BUNDLE = 64
"""Events of a bundle: all but the last have QoS 0, and its acknowledgement covers them."""

Unit = tuple[Pending, ...]


class Station(Source):
    """The source of a connection that publishes events.

    Args:
        topic: ``sfi/<runtime>``.
        outbox: the events.
        about: more fields of the status.
    """

    def __init__(self, topic: str, outbox: Outbox, about: Mapping[str, Any] | None = None) -> None:
        self._topic, self._outbox = topic, outbox
        versions = {name: version(name) for name in ("torch", "transformers")}
        self._about = {"instance": token_hex(8), "versions": versions, **(about or {})}
        # Counted as dropped; all that can be on their way at a time, should they be given back.
        self._unwritable = deque[int](maxlen=WINDOW * BUNDLE)
        self._alone = 0  # so many of the next leave alone: one of their bundle is too large

    def met(self, event: RuntimeStarted) -> None:
        """Tell of a runtime in the status from now on; its event takes the new status along."""
        self._about |= {"model": event.model, "policy": event.policy, "window": event.window}

    def will(self) -> Message:
        return self._status("offline", None)

    def hello(self) -> Message:
        return self._status("online", datetime.now(UTC))

    def goodbye(self) -> Message:
        return self._status("offline", datetime.now(UTC))

    def take(self, limit: int) -> Sequence[Any]:
        if self._alone:
            alone = [(event,) for event in self._outbox.take(min(limit, self._alone))]
            self._alone -= len(alone)
            return alone
        if len(self._outbox) > BURST:
            bundles = [tuple(self._outbox.take(BUNDLE)) for _ in range(limit)]
            return [bundle for bundle in bundles if bundle]
        return [(event,) for event in self._outbox.take(limit)]

    def messages(self, unit: Any) -> Sequence[Message]:
        return self._bundle(unit)

    def refused(self, unit: Any, why: str) -> None:
        if len(unit) == 1:
            log.warning("an event is dropped: %s", why)
            self._outbox.discard()
            return
        self._alone += len(unit)
        self.give_back([unit])
        self._outbox.wake()

    def give_back(self, units: Sequence[Any]) -> None:
        events = [event for unit in units for event in unit]
        self._outbox.give_back([event for event in events if event.sequence not in self._unwritable])

    def _bundle(self, unit: Unit) -> list[Message]:
        written = [(event, payload) for event in unit if (payload := self._written(event)) is not None]
        made = [
            Message(
                f"{self._topic}/events/{kind_of(type(pending.event))}",
                payload,
                qos=int(place == len(written)),
            )
            for place, (pending, payload) in enumerate(written, start=1)
        ]
        return [*made, self.hello()] if any(isinstance(each.event, RuntimeStarted) for each in unit) else made

    def _written(self, pending: Pending) -> bytes | None:
        try:
            return encode(pending, self._outbox.dropped)
        except Exception:  # an event of somebody else's plugin
            log.exception("%s cannot be written as JSON and is dropped", type(pending.event).__name__)
            self._outbox.discard()
            self._unwritable.append(pending.sequence)
            return None

    def _status(self, status: Literal["online", "offline"], time: datetime | None) -> Message:
        payload = encode_status(status, time, self._outbox.dropped, self._about)
        return Message(f"{self._topic}/status", payload, retain=True)
