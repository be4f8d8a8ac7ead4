"""Takes requests, runs them in threads, and sees to their answers."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sfi_agent.chat import ChatStream, LocalChat
from sfi_agent.errors import PromptError, SettingError, SFIError
from sfi_agent.tools import Event
from sfi_mqtt.answers import Encoded, Error, Reply, Started, answer
from sfi_mqtt.headers import MAX_LEVELS, MAX_TOPIC, Message, publishable
from sfi_mqtt.listing import drop_session, list_sessions
from sfi_mqtt.replies import Pending, Replies
from sfi_mqtt.requests import (
    CancelRequest,
    DropRequest,
    EncodeRequest,
    ListRequest,
    Request,
    RequestError,
    TurnRequest,
    read_request,
)

if TYPE_CHECKING:
    from sfi_agent.runtime.runtime import Runtime

log = logging.getLogger(__name__)
MAX_CORRELATION = 128
"""Bytes of correlation data."""


@dataclass(frozen=True)
class Limits:
    """What a runtime on the bus takes on.

    Attributes:
        together: turns that run at a time, sharing their steps.
        waiting: requests that wait for one of these places; more are refused as ``busy``.
        request_bytes: of one request.
        remembered: answers that are given again when their request comes again.
    """

    together: int = 8
    waiting: int = 64
    request_bytes: int = 8 * 2**20
    remembered: int = 1000

    def __post_init__(self) -> None:
        for name, least in (("together", 1), ("waiting", 0), ("request_bytes", 1), ("remembered", 0)):
            if (value := getattr(self, name)) < least:
                raise SettingError(f"limits: {name} must be {least} or more (given {value!r})")


@dataclass(eq=False)
class _Job:
    """A request that was admitted; ``answered`` before it had ``begun`` if it was cancelled till then."""

    request: Request
    reply: Pending
    came: float
    expires: float | None
    begun: bool = False
    answered: bool = False
    cancelled: threading.Event = field(default_factory=threading.Event)
    stream: ChatStream | None = None

    def cancel(self) -> None:
        self.cancelled.set()
        if self.stream is not None:
            self.stream.cancel()


class Desk:
    """Answers the requests that come for one runtime. ``received`` is safe from any one thread.

    Args:
        runtime: runs the turns.
        replies: takes the answers.
        reply_root: beginning of every topic to which answers may go.
        limits: what is taken on.
    """

    def __init__(self, runtime: Runtime, replies: Replies, reply_root: str, limits: Limits) -> None:
        self._runtime, self._service = runtime, LocalChat(runtime)
        self._replies, self._root, self._limits = replies, reply_root, limits
        self._pool = ThreadPoolExecutor(limits.together, thread_name_prefix="sfi-bus")
        self._jobs: dict[Pending, _Job] = {}
        self._guard = threading.Condition()
        self._closing = False
        self.unanswerable = 0
        """Requests without a topic to answer to, or without correlation data to answer with."""

    def received(self, message: Message) -> None:
        """Admit a request, refuse it, or answer it again; nothing is ever raised."""
        key = self._key(message)
        if key is None:
            return
        try:
            request: Request | None = read_request(message.payload, self._limits.request_bytes)
            problem: Exception | None = None
        except SFIError as error:
            request, problem = None, error
        if isinstance(request, CancelRequest):
            self._cancel(key)
        elif (reply := self._replies.begin(key)) is None:
            log.debug("a request came again; it is answered again")
        elif request is None:
            self._replies.finish(reply, Error.of(problem or RequestError("malformed", "no request")))
        else:
            self._admit(request, reply, message.expiry)

    def close(self, grace: float) -> None:
        """Refuse what is new or waits; turns that run have ``grace`` seconds, and are refused after that."""
        deadline = time.monotonic() + grace
        with self._guard:
            self._closing = True
            self._guard.wait_for(lambda: not self._jobs, max(0.0, deadline - time.monotonic()))
            left = list(self._jobs.values())
        for job in left:
            job.cancel()
        self._pool.shutdown(wait=True, cancel_futures=False)

    def _key(self, message: Message) -> tuple[str, bytes] | None:
        """What names the request; None, counted and told once, if it can have no answer."""
        topic, correlation = message.reply_to or "", message.correlation or b""
        below = topic.removeprefix(self._root)
        allowed = below != topic and publishable(below) and not message.retain
        if allowed and 0 < len(correlation) <= MAX_CORRELATION:
            return topic, correlation
        self.unanswerable += 1
        if self.unanswerable == 1:
            log.warning(
                "a request cannot be answered and is left: it needs a response topic under %s of at most %d "
                "printable characters and %d levels without wildcards, correlation data of 1 to %d bytes, "
                "and must not be retained; others like it are only counted",
                self._root,
                MAX_TOPIC,
                MAX_LEVELS,
                MAX_CORRELATION,
            )
        return None

    def _cancel(self, key: tuple[str, bytes]) -> None:
        with self._guard:
            left = (job for job in self._jobs.values() if not job.answered)
            job = next((job for job in left if job.reply.key == key), None)
            if job is not None and not job.begun:
                job.answered = True  # at once, though its place is free only when its turn comes
        if job is not None and job.answered:
            self._replies.finish(job.reply, _CANCELLED)
        elif job is not None:
            job.cancel()
        elif reply := self._replies.begin(key):
            told = "no such turn runs or waits; it may have ended too long ago"
            self._replies.finish(reply, Error(code="unknown_turn", message=told))

    def _admit(self, request: Request, reply: Pending, expiry: int | None) -> None:
        now = time.monotonic()
        job = _Job(request, reply, now, None if expiry is None else now + expiry)
        most = self._limits.together + self._limits.waiting
        with self._guard:
            full, closing = len(self._jobs) >= most, self._closing
            if not full and not closing:
                self._jobs[reply] = job
                self._pool.submit(self._run, job)
                return
        self._replies.finish(reply, _CLOSING if closing else _busy(most))

    def _run(self, job: _Job) -> None:
        """In a thread of the pool: answer, whatever happens."""
        with self._guard:
            job.begun = True
        try:
            if not job.answered:
                self._finish(job)
        finally:
            with self._guard:
                del self._jobs[job.reply]
                self._guard.notify_all()

    def _finish(self, job: _Job) -> None:
        try:
            self._replies.finish(job.reply, self._last(job))
        except ValueError as error:  # the model wrote what cannot be sent: nested too deep, say
            log.exception("an answer cannot be sent")
            self._replies.finish(job.reply, Error.of(error))

    def _last(self, job: _Job) -> Reply:
        """The end of the answer, whatever happens."""
        try:
            return self._refusal(job) or self._answer(job)
        except SFIError as error:
            return Error.of(error)
        except Exception as error:
            log.exception("a request failed")
            return Error.of(error)

    def _refusal(self, job: _Job) -> Error | None:
        """Why a request is not run, now that it could be."""
        if self._closing:
            return _CLOSING
        if job.cancelled.is_set():
            return _CANCELLED
        if job.expires is not None and time.monotonic() > job.expires:
            told = "the request expired before it could be run; ask again, and allow it longer"
            return Error(code="expired", message=told)
        return None

    def _answer(self, job: _Job) -> Reply:
        request = job.request
        if isinstance(request, TurnRequest):
            return self._turn(request, job)
        if isinstance(request, EncodeRequest):
            prompt = request.prompt if request.text is None else request.text
            return Encoded(token_ids=self._service.encode(prompt, request.ask()))
        if isinstance(request, DropRequest):
            return drop_session(self._runtime, request)
        assert isinstance(request, ListRequest)
        return list_sessions(self._runtime)

    def _turn(self, request: TurnRequest, job: _Job) -> Reply:
        chat = request.chat(waited=time.monotonic() - job.came)
        said: list[Event] = []
        with self._service.open(chat, self._progress(job)) as stream:
            job.stream = stream
            if job.cancelled.is_set():
                stream.cancel()
            self._replies.start(job.reply, Started(prompt_tokens=stream.prompt_tokens))
            for events in stream:
                if events:
                    said += events
                    self._replies.add(job.reply, events)
            try:
                result = stream.result
            except PromptError:
                if self._closing or job.cancelled.is_set():  # while it waited for its session, or for room
                    return _CLOSING if self._closing else _CANCELLED
                raise
        if self._closing and result.finish_reason == "cancelled":
            return _CLOSING
        return answer(result, said)

    def _progress(self, job: _Job) -> Callable[[int, int], None]:
        return lambda done, total: self._replies.progress(job.reply, done, total)


_CANCELLED = Error(code="cancelled", message="the turn was cancelled before it began")
_CLOSING = Error(code="closing", message="the runtime is closing; ask again when it is back")


def _busy(most: int) -> Error:
    told = f"the runtime has {most} requests already; ask again later, or another runtime"
    return Error(code="busy", message=told)
