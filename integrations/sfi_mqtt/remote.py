"""A turn of a runtime elsewhere, while it is answered."""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence
from typing import Protocol

from sfi_agent.chat import ChatStream
from sfi_agent.errors import ServiceError, TurnTimeoutError
from sfi_agent.progress import Progress as OnProgress
from sfi_agent.runtime.result import TurnResult
from sfi_agent.tools import Event
from sfi_mqtt.answers import Answer, Error, Progress, Reply, Started, Tokens
from sfi_mqtt.asking import Asked, Asking
from sfi_mqtt.parts import Part, parts, rest, size

LOOK_SECONDS = 0.5
"""How often someone who waits looks whether broker and runtime are there."""
AGAIN_SECONDS = 30.0
"""Without a word for so long, a request is sent again: a broker may drop what it has no room for."""


class Reachable(Protocol):
    """Whom we wait for."""

    patience: float

    @property
    def refused(self) -> bool:
        """Whether waiting is of no use."""

    @property
    def trouble(self) -> str:
        """Why nothing can be answered now; empty if it can."""


def next_reply(service: Reachable, asking: Asking, asked: Asked) -> Reply | None:
    """Wait for the next message of an answer; None if nobody wants it any more.

    Raises:
        SFIError: the runtime says so.
        TurnTimeoutError: the deadline passed while broker or runtime were away.
        ServiceError: broker or runtime have been away for longer than the service's patience, or waiting
            is of no use.
    """
    there = asked_at = time.monotonic()
    while True:
        try:
            reply = asked.replies.get(timeout=LOOK_SECONDS)
        except queue.Empty:
            now, trouble = time.monotonic(), service.trouble
            there = there if trouble else now
            if trouble and asked.cancelled:
                return None
            if service.refused or now - there > service.patience:
                raise ServiceError(trouble) from None
            if trouble and asked.deadline is not None and now > asked.deadline:
                raise TurnTimeoutError(f"the turn passed its deadline unanswered: {trouble}") from None
            if not trouble and now - asked_at > AGAIN_SECONDS:
                asked_at = now
                asking.ask(asked)
            continue
        if isinstance(reply, Exception):
            raise ServiceError(f"the runtime's answer cannot be read: {' '.join(str(reply).split())[:200]}")
        if isinstance(reply, Error) and not (asked.cancelled and reply.code in ("unknown_turn", "cancelled")):
            raise reply.error()
        return None if isinstance(reply, Error) else reply


class RemoteTurn(ChatStream):
    """An answer as it comes from elsewhere.

    Pieces that come twice are taken once; a piece that was lost is in the whole answer, at the latest. Making
    one sends the request; that the runtime refuses it or cannot be reached is raised by its iteration.

    Args:
        service: where it comes from.
        asking: sends the request.
        asked: the request.
        on_progress: called with (prompt tokens read, prompt tokens), or None.

    Attributes:
        prompt_tokens: 0 until the turn has begun.
    """

    def __init__(
        self, service: Reachable, asking: Asking, asked: Asked, on_progress: OnProgress | None = None
    ) -> None:
        self._service, self._asking, self._asked, self._on_progress = service, asking, asked, on_progress
        self._given: list[Event] = []
        self._size = 0
        self._result: TurnResult | None = None
        self._closed = False
        self.prompt_tokens = 0
        asking.ask(asked)

    def __next__(self) -> list[Event]:
        while self._result is None and not self._closed:
            reply = self._next()
            if isinstance(reply, Started):
                self.prompt_tokens = reply.prompt_tokens
            elif isinstance(reply, Tokens) and reply.at <= self._size:
                if new := self._new(reply.parts, reply.at):
                    return new
            elif isinstance(reply, Answer):
                new = self._new(reply.parts, 0)
                if parts(self._given) != reply.parts:
                    raise ServiceError(
                        "the runtime was restarted and answered otherwise than it had begun to; ask again"
                    )
                self._result = reply.result
                return new
            elif reply is None:
                self._closed = True
        raise StopIteration

    def _next(self) -> Reply | None:
        """The next message; one of progress is told as well."""
        reply = next_reply(self._service, self._asking, self._asked)
        if isinstance(reply, Progress) and self._on_progress:
            self._on_progress(reply.done, reply.total)
        return reply

    def _new(self, came: Sequence[Part], at: int) -> list[Event]:
        """What of a piece is new; it is ours from now on."""
        new = rest([part.event for part in came], self._size - at)
        self._given += new
        self._size += size(new)
        return new

    def cancel(self) -> None:
        """Have the turn end before its next step; returns at once."""
        self._asking.cancel(self._asked)

    def close(self) -> None:
        """End the turn and wait for nothing more of it."""
        if self._result is None and not self._closed:
            self._closed = True
            self.cancel()
            self._asked.replies.put(None)  # for a thread that waits

    @property
    def result(self) -> TurnResult:
        """The answer and what it cost, once it has come.

        Raises:
            ServiceError: it has not.
        """
        if self._result is None:
            raise ServiceError("the turn was closed before its answer came")
        return self._result
