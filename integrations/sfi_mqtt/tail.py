"""The messages of runtimes on a broker, for reading."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from sfi_agent.printable import printable
from sfi_mqtt.backoff import Backoff
from sfi_mqtt.broker import Broker
from sfi_mqtt.connection import Connection
from sfi_mqtt.headers import Message
from sfi_mqtt.messages import Envelope, base_topic
from sfi_mqtt.source import Source

BESIDE = {*Envelope.__annotations__, "session", "turn", "policy"}
"""Fields that every line shows in the same place, or not at all."""
ABOUT = ("status", "time", "dropped", "sfi_agent", "model")
"""Of a status."""
KEPT = 10_000
"""Messages that wait to be read; the oldest are dropped."""


@dataclass(frozen=True)
class Shown:
    """One message, of whom, as JSON and as a line to read."""

    runtime: str
    json: str
    line: str


class Tail(Source):
    """What the runtimes named ``name`` (``+``: all) tell, from now on; a context manager.

    Args:
        broker: where.
        name: one level of a topic.
        backoff: between attempts to connect.

    Raises:
        SettingError: it is no such name.
    """

    def __init__(self, broker: Broker, name: str, backoff: Backoff | None = None) -> None:
        topic = "sfi/+" if name == "+" else base_topic(name)
        self._topics = (f"{topic}/status", f"{topic}/events/+")
        self._came: queue.Queue[Message] = queue.Queue(KEPT)
        self._connection = Connection(broker, "tail", self, backoff or Backoff(), gives_up=True)

    def until(self, stopped: threading.Event, count: int | None = None) -> Iterator[Shown]:
        """The messages as they come, until ``stopped`` is set or ``count`` have come.

        Raises:
            ServiceError: the broker cannot be reached at the first attempt.
        """
        given = 0
        while not stopped.is_set() and (count is None or given < count):
            self._connection.check()
            try:
                message = self._came.get(timeout=0.2)
            except queue.Empty:
                continue
            given += 1
            payload = message.payload.decode("utf-8", "replace")
            yield Shown(_runtime(message), payload, line(message))

    def __enter__(self) -> Self:
        self._connection.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close(2.0)

    # What the connection uses.

    def topics(self) -> Sequence[str]:
        return self._topics

    def received(self, message: Message) -> None:
        while True:
            try:
                return self._came.put_nowait(message)
            except queue.Full:
                with suppress(queue.Empty):  # all were read just now
                    self._came.get_nowait()


def line(message: Message) -> str:
    """``time runtime session/turn kind: field value, ...``; whatever the message is, one line."""
    runtime = _runtime(message)
    try:
        fields = json.loads(message.payload)
        time = str(fields.pop("time") or "")[11:23].ljust(12)
        kind = str(fields.pop("kind"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        shown = message.payload[:200].decode("utf-8", "replace")
        return printable(f"{'':12} {runtime} unreadable: {shown}")
    if kind == "status":
        told = ", ".join(f"{name} {fields[name]}" for name in ABOUT if fields.get(name) not in (None, 0))
        return printable(f"{time} {runtime} {told}")
    where = f" {fields.get('session')}/{fields.get('turn')}" if fields.get("session") else ""
    told = ", ".join(f"{name} {value}" for name, value in fields.items() if name not in BESIDE)
    return printable(f"{time} {runtime}{where} {kind.replace('_', ' ')}: {told}")


def _runtime(message: Message) -> str:
    return message.topic.split("/")[1]
