"""A runtime elsewhere, as if it were here: the client's side of the bus."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from shlex import quote
from types import TracebackType
from typing import Any, Self, TypeVar

from sfi_agent.chat import Chat, ChatService
from sfi_agent.errors import ServiceError
from sfi_agent.progress import Progress
from sfi_agent.tools import Ask
from sfi_mqtt.answers import Dropped, Encoded, Reply, SessionLine, Sessions
from sfi_mqtt.asking import Asked, Asking
from sfi_mqtt.backoff import Backoff, bounded
from sfi_mqtt.broker import Broker
from sfi_mqtt.connection import Connection
from sfi_mqtt.messages import StatusMessage
from sfi_mqtt.remote import RemoteTurn, next_reply
from sfi_mqtt.requests import ListRequest, Request
from sfi_mqtt.writing import drop_request, encode_request, turn_request

T = TypeVar("T", bound=Reply)


class BusRuntime(ChatService):
    """A runtime on the bus; give it to a chat model: ``SFIChatModel(runtime=BusRuntime(...))``.

    Connects in a thread of its own, and again whenever the connection breaks; answers that were under way
    then go on. Safe from threads. Call ``close`` at the end, or use it as a context manager.

    Args:
        url: where the broker is, as for :class:`sfi_mqtt.MqttEvents`.
        runtime: name of the runtime.
        password: instead of the URL's.
        patience: seconds without broker or runtime after which a request fails; while both are there it
            takes as long as it takes. A wrong password fails at once.
        backoff: how long to wait between attempts to connect.

    Raises:
        SettingError: a value is not allowed.
    """

    def __init__(
        self,
        url: str | Broker,
        runtime: str,
        *,
        password: str | None = None,
        patience: float = 60.0,
        backoff: Backoff | None = None,
    ) -> None:
        self.runtime, self.patience = runtime, bounded("patience", patience)
        broker = Broker.of(url, password)
        self._asking, self._closed = Asking(runtime, broker.user), False
        self._connection = Connection(broker, f"{runtime}-client", self._asking, backoff or Backoff())
        self._asking.wake = self._connection.wake
        self._connection.start()

    @property
    def status(self) -> StatusMessage:
        """What the runtime says of itself.

        Raises:
            ServiceError: nothing came within ``patience`` seconds, or the broker refuses the login.
        """
        with self._asking.changed:
            self._asking.changed.wait_for(
                lambda: self._asking.status is not None or self.refused, self.patience
            )
        if self._asking.status is None:
            raise ServiceError(self.trouble or "no status came")
        return self._asking.status

    @property
    def reply_topic(self) -> str:
        """Where the answers to this client come: ``sfi/<runtime>/replies/[<user>/]<random>``."""
        return self._asking.reply_topic

    @property
    def trouble(self) -> str:
        """Why nothing can be answered now; empty if it can."""
        where = self._connection.broker.address
        start = f"sfi-agent bus --name {quote(self.runtime)} --broker {where}"
        if self._closed:
            return f"{where}: this client was closed; make another"
        if not self._connection.connected:
            return f"{where}: {self._connection.problem or 'not connected yet'}"
        status = self._asking.status
        if status is None or status.status != "online":
            return f"no runtime {self.runtime!r} is online at {where}; start one: {start}"
        if not status.serves:
            return f"runtime {self.runtime!r} only publishes events; start one that answers: {start}"
        return ""

    @property
    def refused(self) -> bool:
        """Whether waiting is of no use: the broker refuses this user or password, or this was closed."""
        return self._connection.refused or self._closed

    @property
    def name(self) -> str:
        """Of the model.

        Raises:
            ServiceError: no runtime of that name told of itself.
        """
        if self.status.model is None:
            raise ServiceError(self.trouble)
        return self.status.model

    def open(self, chat: Chat, on_progress: Progress | None = None) -> RemoteTurn:
        """Ask for a turn; iterate to wait for it.

        Raises:
            PromptError: there are no messages.
            SettingError: a message holds what cannot be sent. Iterating raises what a runtime here does, or
                its base class, and ServiceError where it cannot be reached or refuses.
        """
        asked = Asked(turn_request(chat))
        if chat.timeout is not None:
            asked.deadline = time.monotonic() + chat.timeout
        return RemoteTurn(self, self._asking, asked, on_progress)

    def encode(self, prompt: str | Sequence[Mapping[str, Any]], ask: Ask) -> list[int]:
        return self._answered(encode_request(prompt, ask), Encoded).token_ids

    def sessions(self) -> list[SessionLine]:
        """The sessions that the runtime knows, by id."""
        return self._answered(ListRequest(), Sessions).sessions

    def drop_session(self, session: str, *, stored: bool = False) -> None:
        """Have the runtime forget a session; with ``stored``, its store as well."""
        self._answered(drop_request(session, stored), Dropped)

    def close(self, timeout: float = 5.0) -> None:
        """Disconnect; what is not answered yet fails."""
        self._closed = True
        self._connection.close(timeout)
        self._asking.failed()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answered(self, request: Request, kind: type[T]) -> T:
        asked = Asked(request)
        self._asking.ask(asked)
        try:
            reply = next_reply(self, self._asking, asked)
        finally:
            self._asking.forget(asked)
        if not isinstance(reply, kind):
            raise ServiceError(f"runtime {self.runtime!r} answered a {request.kind} with something else")
        return reply
