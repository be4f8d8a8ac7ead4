"""Which sessions stay in memory: under a limit, the least recently used leave first."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from sfi_agent.errors import TurnTimeoutError
from sfi_agent.runtime.limits import Limits
from sfi_agent.runtime.pool import PagePool
from sfi_agent.runtime.reserve import Admitted, PageReserve
from sfi_agent.runtime.session import Session
from sfi_agent.runtime.sizes import ExpectedBytes, parked_bytes
from sfi_agent.runtime.stream import Hands, waited
from sfi_agent.runtime.tiers import Tiers

RETRY = 5.0
"""Seconds after which a turn that waits tries again whether sessions that could not be stored can leave."""


@dataclass(frozen=True)
class _Known:
    """A session in memory: when it was last used (monotonic seconds), and its bytes since, by place."""

    used: float
    device: int
    host: int


class _Move(NamedTuple):
    """A session that is to go to the host, or to leave memory."""

    session: Session
    parks: bool


class Residency:
    """Admits turns, and has idle sessions leave to make room for them.

    Args:
        limits: to keep.
        sessions: those in memory, by id.
        token_bytes: of one position's keys and values in all layers, as far as it is known.
        tiers: has a session go from the device to the host, where there is one, or leave memory.
        pool: of the sessions' pages, which are a limit as well; None: there are none.
    """

    def __init__(
        self,
        limits: Limits,
        sessions: Mapping[str, Session],
        token_bytes: int,
        tiers: Tiers,
        pool: PagePool | None = None,
    ) -> None:
        self._limits, self._sessions, self._tiers = limits, sessions, tiers
        self._host = (limits.host_bytes or 0) if tiers.has_host else 0
        self._expected = ExpectedBytes(token_bytes)
        self._guard = threading.RLock()  # taken as it is: Ctrl-C may come inside of a condition's own `with`
        self._changed = threading.Condition(self._guard)
        self._changes = 0
        self._moving: dict[str, int] = {}  # the thread that has each do so
        self._pages = PageReserve(pool, sessions) if pool else None
        self._reserved: list[Admitted] = []
        self._known: dict[str, _Known] = {}

    @property
    def nbytes(self) -> int:
        """What the sessions take on the device, running turns as they may grow to."""
        idle = (id for id in self._known if not self._runs(id) and id in self._sessions)
        return sum(self._known[id].device for id in idle) + sum(turn.bytes for turn in self._reserved)

    @contextmanager
    def admitted(
        self,
        session: str | None,
        tokens: int,
        likely: int,
        timeout: float | None,
        reader: Hands | None = None,
    ) -> Iterator[Admitted]:
        """Room for a turn of ``session`` that reaches at most ``tokens`` tokens; waits until there is.

        Pages are kept free for the ``likely`` ones of them.

        Raises:
            PromptError: it would not fit if nothing else were there.
            TurnTimeoutError: other turns took the room for ``timeout`` seconds.
            StreamCancelledError: ``reader`` was, while it waited.
        """
        if self._pages:
            self._pages.check(likely)
        turn = Admitted(session, self._expected.within(self._limits.bytes, tokens), likely)
        looked = time.monotonic()
        changes = self._changes

        def came(seconds: float) -> bool:
            """A disk that works again notifies nobody, and trying it writes what it cannot take."""
            nonlocal looked, changes
            with self._guard:
                changed = self._changed.wait_for(lambda: self._changes != changes, seconds)
                changes = self._changes
            if not changed and time.monotonic() - looked < RETRY:
                return False
            looked = time.monotonic()
            return self._make_room(turn, admit=True)

        if not (self._make_room(turn, admit=True) or waited(came, timeout, reader)):
            raise TurnTimeoutError(
                "other turns took all the memory that sessions may have until this one passed its "
                "deadline; allow more time, or raise the runtime's limit"
            )
        try:
            yield turn
        finally:
            with self._guard:
                self._reserved.remove(turn)
            self.touched(session, *turn.made)

    def _fits(self, turn: Admitted, gone: Collection[str] = ()) -> bool:
        """Whether there is room for one more turn beside what was promised, and is there but for ``gone``."""
        if self._pages and not self._pages.fits([*self._reserved, turn], gone):
            return False
        leaving = {id for id in (*gone, turn.session) if id in self._known and not self._runs(id)}
        freed = sum(self._known[id].device for id in leaving)
        return self._limits.bytes is None or self.nbytes - freed + turn.bytes <= self._limits.bytes

    def touched(self, *sessions: str | None) -> None:
        """Sessions were used: learn from their sizes, and keep the limits."""
        with self._guard:
            for session in sessions:
                if session is not None and (held := self._sessions.get(session)) is not None:
                    self._note(held, time.monotonic())
        self._make_room(Admitted(None))
        self._tell()

    def forget(self, session: str) -> None:
        """A session was dropped."""
        with self._guard:
            if session not in self._sessions:
                self._known.pop(session, None)
        self._tell()

    def _tell(self) -> None:
        """Have turns that wait look again."""
        with self._guard:
            self._changes += 1
            self._changed.notify_all()

    def _note(self, session: Session, used: float) -> None:
        host = session.parked.nbytes if session.parked else 0
        self._known[session.id] = _Known(used, self._expected.learn(session.row), host)

    def _make_room(self, turn: Admitted, *, admit: bool = False) -> bool:
        """Have idle sessions move until the limits hold beside ``turn``; whether they do, and it is let in.

        A move may wait for the disk, and is told to observers: nobody else waits for that.
        """
        failed: set[str] = set()
        while True:
            with self._guard:
                if (move := self._due(turn, failed)) is None:
                    if (fits := self._fits(turn)) and admit:
                        self._reserved.append(turn)
                    return fits
                self._moving[id := move.session.id] = threading.get_ident()
            try:
                done = (self._tiers.park if move.parks else self._tiers.evict)(move.session)
            finally:
                with self._guard:
                    del self._moving[id]
            if done:
                self._moved(move.session)
            else:
                failed.add(id)

    def _moved(self, session: Session) -> None:
        with self._guard:
            known = self._known.pop(session.id, None)
            if known and self._sessions.get(session.id) is session:
                self._note(session, known.used)
        self._tell()

    def _due(self, turn: Admitted, failed: Collection[str]) -> _Move | None:
        """What moves next: of the sessions that can the least recently used; None where that is none's turn.

        What other threads have move is as good as gone.
        """
        there = {id: held for id in self._known if (held := self._sessions.get(id)) is not None}
        self._known = {id: self._known[id] for id in there}
        own, gone = threading.get_ident(), set()
        for id, thread in self._moving.items():
            if thread != own:  # else an observer of that move runs a turn
                gone.add(id)
        ids = [id for id in there if not (id in failed or id in self._moving or self._runs(id))]
        ids = sorted((id for id in ids if id != turn.session), key=lambda id: self._known[id].used)
        idle = [there[id] for id in ids]
        if not idle:
            return None
        seconds, many = self._limits.idle_seconds, self._limits.sessions
        if seconds is not None and self._known[ids[0]].used < time.monotonic() - seconds:
            return _Move(idle[0], parks=False)
        if many is not None and len(self._sessions) - len(gone) > many:
            return _Move(idle[0], parks=False)
        placed = [session for session in idle if self._known[session.id].device]
        if not placed or self._fits(turn, gone):
            return None
        return self._off_device(placed[0], idle)

    def _off_device(self, session: Session, idle: Sequence[Session]) -> _Move:
        """To the host, where the least recently used of ``idle`` make room; else out of memory."""
        need = parked_bytes(session.row)
        if not self._tiers.has_host or need > self._host:
            return _Move(session, parks=False)
        if sum(known.host for known in self._known.values()) + need <= self._host:
            return _Move(session, parks=True)
        parked = (other for other in idle if self._known[other.id].host)
        return _Move(next(parked, session), parks=False)

    def _runs(self, id: str) -> bool:
        return any(turn.session == id for turn in self._reserved)
