"""What a client sends and hears: its open requests, and the status of the runtime that it asks."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from secrets import token_bytes, token_hex
from typing import Any

from pydantic import ValidationError

from sfi_mqtt.answers import LAST, REPLIES, Error, Reply
from sfi_mqtt.headers import Message, within
from sfi_mqtt.messages import StatusMessage, base_topic, read_status
from sfi_mqtt.requests import CancelRequest, Request
from sfi_mqtt.source import Source
from sfi_mqtt.writing import write_request

LEAST_SECONDS = 1e-3
"""Of a turn that is asked for again after its deadline: its answer may be there."""


@dataclass(eq=False)
class Asked:
    """A request whose answer has not wholly come.

    Attributes:
        request: what is asked.
        deadline: of a turn, when it must be answered, monotonic seconds: the runtime, which is told what is
            left, sees to that, and where there is none, the client.
        correlation: of the request and its answers.
        replies: what came, or an exception to raise, for the one thread that waits; None: stop waiting.
        cancelled: whether its end was asked for.
        written: the request as JSON: what cannot be written is told to who asks, and not to the connection.

    Raises:
        SettingError: the request holds what JSON cannot.
    """

    request: Request
    deadline: float | None = None
    correlation: bytes = field(default_factory=lambda: token_bytes(16))
    replies: queue.SimpleQueue[Reply | Exception | None] = field(default_factory=queue.SimpleQueue)
    cancelled: bool = False
    written: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.written = write_request(self.request)

    def message(self, topic: str, reply_to: str) -> Message:
        """What is to be published now."""
        payload, expiry = self.written, None
        if self.deadline is not None:
            left = max(LEAST_SECONDS, self.deadline - time.monotonic())
            payload = write_request(self.request.model_copy(update={"timeout": left}))
            expiry = max(1, within(left))
        if self.cancelled:
            payload = write_request(CancelRequest())
        return Message(topic, payload, reply_to=reply_to, correlation=self.correlation, expiry=expiry)


class Asking(Source):
    """The source of a client's connection. Safe from threads.

    A request is sent again on every new connection and to every new process of the runtime, until it is
    answered: the other side knows it by its correlation data. So nothing need be given back.

    Args:
        runtime: name of the runtime.
        user: under whose name the replies come, so that a broker's rules can keep them to that user.

    Attributes:
        reply_topic: where they come; no two clients have the same.
        status: of the runtime; None before it is known, and ``offline`` while there is no connection.
        changed: notified when the status or the connection changes.
    """

    def __init__(self, runtime: str, user: str | None = None) -> None:
        topic = base_topic(runtime)
        self._requests, self._status_topic = f"{topic}/requests", f"{topic}/status"
        self.reply_topic = f"{topic}/replies/{level(user)}{token_hex(16)}"
        self.status: StatusMessage | None = None
        self.changed = threading.Condition()
        self.wake: Callable[[], None] = lambda: None
        self._open: dict[bytes, Asked] = {}
        self._due: dict[Asked, None] = {}
        self._lock = threading.RLock()  # a turn may be collected, and ask for its end, inside of it

    def ask(self, asked: Asked) -> None:
        """Send a request, for the first time or again."""
        with self._lock:
            self._open[asked.correlation] = asked
            self._due[asked] = None
        self.wake()

    def cancel(self, asked: Asked) -> None:
        """Ask for the end of a turn."""
        asked.cancelled = True
        if asked.correlation in self._open:
            self.ask(asked)

    def forget(self, asked: Asked) -> None:
        """Nobody waits for its answer any more."""
        with self._lock:
            self._open.pop(asked.correlation, None)
            self._due.pop(asked, None)

    # What the connection uses.

    def topics(self) -> tuple[str, ...]:
        return self._status_topic, self.reply_topic

    def connected(self) -> None:
        self._ask_again()

    def failed(self) -> None:
        with self.changed:
            if self.status:  # a broker that forgot what it retained tells nobody of a runtime that is gone
                self.status = replace(self.status, status="offline")
            self.changed.notify_all()

    def received(self, message: Message) -> None:
        if message.topic == self._status_topic:
            return self._heard(message)
        asked = self._open.get(message.correlation or b"")
        if asked is None:
            return
        try:
            reply = REPLIES.validate_json(message.payload)
        except ValidationError as error:
            return asked.replies.put(error)
        if isinstance(reply, LAST):
            self.forget(asked)
        asked.replies.put(reply)

    def take(self, limit: int) -> Sequence[Any]:
        with self._lock:
            first = list(self._due)[:limit]
            for asked in first:
                del self._due[asked]
            return [(asked,) for asked in first]

    def messages(self, unit: tuple[Asked]) -> Sequence[Message]:
        (asked,) = unit
        return [asked.message(self._requests, self.reply_topic)]

    def refused(self, unit: tuple[Asked], why: str) -> None:
        (asked,) = unit
        self.forget(asked)
        asked.replies.put(Error(code="too_large", message=why))

    def _heard(self, message: Message) -> None:
        """A status: one that is said just now may come of a runtime that was away when we asked."""
        if (status := read_status(message.payload)) is None:
            return
        known = self.status
        with self.changed:
            self.status = status
            self.changed.notify_all()
        same = known and (known.status, known.instance) == ("online", status.instance)
        if status.status == "online" and not (same and message.retain):
            self._ask_again()

    def _ask_again(self) -> None:
        with self._lock:
            self._due.update(dict.fromkeys(self._open.values()))
        with self.changed:
            self.changed.notify_all()
        self.wake()


def level(user: str | None) -> str:
    """A user's name as one level of a topic, with what may not be in one left out; nothing without a user."""
    return "".join(c for c in user if c not in "/+#" and c.isprintable()) + "/" if user else ""
