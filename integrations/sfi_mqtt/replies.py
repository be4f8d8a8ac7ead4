"""Answers on their way: none is dropped, and each is remembered for a while, to be given again."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from sfi_agent.tools import Event
from sfi_agent.tools.events import joined
from sfi_mqtt.answers import Progress, Reply, Started, Tokens, payload
from sfi_mqtt.headers import Message
from sfi_mqtt.parts import parts, size

log = logging.getLogger(__name__)
Key = tuple[str, bytes]
"""Reply topic and correlation data: they name a request."""


@dataclass(eq=False)
class Pending:
    """The answer to one request, as far as it came, and how much of that has been sent.

    What waits is kept once: text joins text that waits. So a broker that is away costs no more memory than
    the answer itself. ``sent`` is the size of the events that have left.
    """

    key: Key
    started: Started | None = None
    progress: Progress | None = None
    left: list[Event] = field(default_factory=list)
    waiting: list[Event] = field(default_factory=list)
    last: bytes | None = None
    sent_started: bool = False
    sent: int = 0
    sent_last: bool = False
    due: bool = False

    @property
    def over(self) -> bool:
        """Whether its last message has left."""
        return self.sent_last

    def rewind(self) -> None:
        """Everything is to be sent again."""
        self.sent_started, self.sent, self.sent_last = False, 0, False
        self.left, self.waiting = [], joined([*self.left, *self.waiting])

    def next(self) -> Piece | None:
        """What is to be sent now; None if nothing is."""
        if self.started and not self.sent_started:
            self.sent_started = True
            return Piece(self, payload(self.started))
        if self.last is not None:  # it holds all of the answer: what still waits need not go before it
            last = None if self.sent_last else Piece(self, self.last)
            self.sent_last = True
            return last
        if self.waiting:
            piece = Tokens(at=self.sent, parts=parts(self.waiting))
            self.sent += size(self.waiting)
            self.left.extend(self.waiting)
            self.waiting = []
            return Piece(self, payload(piece))
        if self.progress:
            piece_of_progress, self.progress = self.progress, None
            return Piece(self, payload(piece_of_progress))
        return None


@dataclass(eq=False)
class Piece:
    """One message of an answer."""

    of: Pending
    payload: bytes = field(repr=False)

    @property
    def message(self) -> Message:
        topic, correlation = self.of.key
        return Message(topic, self.payload, correlation=correlation)


class Replies:
    """Every answer that is on its way or remembered. Safe from threads.

    Args:
        remembered: answers kept after they left, at most, so that a request that comes again is answered
            again and not run again; the oldest go first.
        remembered_bytes: of them together.

    Attributes:
        wake: called, from the thread that adds, when there is something to send.
    """

    def __init__(self, remembered: int = 1000, remembered_bytes: int = 64 * 2**20) -> None:
        self.wake: Callable[[], None] = lambda: None
        self._remembered, self._remembered_bytes = remembered, remembered_bytes
        self._lock = threading.Lock()  # held for a few operations only, never across I/O
        self._known: OrderedDict[Key, Pending] = OrderedDict()
        self._due: deque[Pending] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        """Answers that are known."""
        return len(self._known)

    @property
    def waiting(self) -> int:
        """Answers of which something is to be sent."""
        return len(self._due)

    def begin(self, key: Key) -> Pending | None:
        """The answer to a new request; for a known one None, and what there is of it is sent again."""
        with self._lock:
            if known := self._known.get(key):
                known.rewind()
                self._mark(known)
                made = None
            else:
                made = self._known[key] = Pending(key)
        if made is None:
            self.wake()
        return made

    def start(self, pending: Pending, started: Started) -> None:
        """The turn begins."""
        with self._lock:
            pending.started = started
            self._mark(pending)
        self.wake()

    def progress(self, pending: Pending, done: int, total: int) -> None:
        """The prompt is being read; only the latest of these is sent."""
        with self._lock:
            pending.progress = Progress(done=done, total=total)
            self._mark(pending)
        self.wake()

    def add(self, pending: Pending, events: Iterable[Event]) -> None:
        """More of the answer."""
        with self._lock:
            pending.waiting.extend(events)
            self._mark(pending)
        self.wake()

    def finish(self, pending: Pending, reply: Reply) -> None:
        """The last message."""
        last = payload(reply)
        with self._lock:
            self._bytes += len(last) - len(pending.last or b"")
            pending.last, pending.progress = last, None
            pending.left, pending.waiting = [], []
            self._mark(pending)
            self._forget_old()
        self.wake()

    def fail(self, pending: Pending, reply: Reply) -> None:
        """Instead of an answer that cannot be sent; what still comes of it is left."""
        with self._lock:
            pending.sent_last = False
        self.finish(pending, reply)

    def take(self, limit: int) -> list[Piece]:
        """The next messages, at most ``limit``; every answer has its turn."""
        taken: list[Piece] = []
        with self._lock:
            while self._due and len(taken) < limit:
                pending = self._due.popleft()
                pending.due = False
                try:
                    piece = pending.next()
                except ValueError:  # it cannot be sent, nor can the whole answer, which says so
                    log.exception("a piece of an answer cannot be sent")
                    continue
                if piece:
                    taken.append(piece)
                    self._mark(pending)
        return taken

    def give_back(self, pieces: Iterable[Piece]) -> None:
        """What was taken may not have arrived: these answers are sent again from their beginning."""
        with self._lock:
            for piece in pieces:
                piece.of.rewind()
                self._mark(piece.of)

    def _mark(self, pending: Pending) -> None:
        if not pending.due:
            pending.due = True
            self._due.append(pending)

    def _forget_old(self) -> None:
        for key, pending in list(self._known.items()):
            if len(self._known) <= self._remembered and self._bytes <= self._remembered_bytes:
                return
            if pending.over and pending.last:
                self._bytes -= len(pending.last)
                del self._known[key]
