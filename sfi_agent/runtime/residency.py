"""Which sessions stay in memory: under a limit, the least recently used leave first."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

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
        self._changed = threading.Condition()
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

        def came(seconds: float) -> bool:
            """A disk that works again notifies nobody, and trying it writes what it cannot take."""
            nonlocal looked
            if not self._changed.wait(seconds) and time.monotonic() - looked < RETRY:
                return False
            looked = time.monotonic()
            return self._make_room(turn)

        with self._changed:
            if not (self._make_room(turn) or waited(came, timeout, reader)):
                raise TurnTimeoutError(
                    "other turns took all the memory that sessions may have until this one passed its "
                    "deadline; allow more time, or raise the runtime's limit"
                )
            self._reserved.append(turn)
        try:
            yield turn
        finally:
            with self._changed:
                self._reserved.remove(turn)
                self.touched(session, *turn.made)
                self._changed.notify_all()

    def _make_room(self, turn: Admitted) -> bool:
        """Evict until the turn fits; False while what is left cannot leave."""
        self._leave_idle()
        while not self._fits(turn):
            if not self._clear_device(but=turn.session):
                return False
        return True

    def _fits(self, turn: Admitted) -> bool:
        """Whether there is room for one more turn, beside what is there and was promised."""
        if self._pages and not self._pages.fits([*self._reserved, turn]):
            return False
        own = 0
        if turn.session is not None and turn.session in self._known and not self._runs(turn.session):
            own = self._known[turn.session].device
        return self._limits.bytes is None or self.nbytes - own + turn.bytes <= self._limits.bytes

    def touched(self, *sessions: str | None) -> None:
        """Sessions were used: learn from their sizes, and keep the limits."""
        with self._changed:
            for session in sessions:
                if session is not None and (held := self._sessions.get(session)) is not None:
                    self._note(held, time.monotonic())
            self._leave_idle()
            while self._crowded() and self._oldest(self._leave, self._known):
                pass
            while not self._fits(Admitted(None)) and self._clear_device():
                pass

    def forget(self, session: str) -> None:
        """A session was dropped. Nobody waits for that: who makes room meanwhile may wait for the disk."""
        if self._changed.acquire(blocking=False):
            try:
                if session not in self._sessions:
                    self._known.pop(session, None)
                self._changed.notify_all()
            finally:
                self._changed.release()

    def _note(self, session: Session, used: float) -> None:
        host = session.parked.nbytes if session.parked else 0
        self._known[session.id] = _Known(used, self._expected.learn(session.row), host)

    def _crowded(self) -> bool:
        return self._limits.sessions is not None and len(self._sessions) > self._limits.sessions

    def _leave_idle(self) -> None:
        if (seconds := self._limits.idle_seconds) is not None:
            before = time.monotonic() - seconds
            for id in [id for id, known in self._known.items() if known.used < before]:
                self._leave(id)

    def _clear_device(self, but: str | None = None) -> bool:
        """Have the least recently used session leave the device that can; ``but`` is called back just now."""
        placed = [id for id, known in self._known.items() if id != but and known.device]
        return self._oldest(partial(self._off_device, but=but), placed)

    def _oldest(self, leave: Callable[[str], bool], ids: Iterable[str]) -> bool:
        """``leave`` the least recently used of these that can."""
        return any(leave(id) for id in sorted(ids, key=lambda id: self._known[id].used))

    def _off_device(self, id: str, but: str | None) -> bool:
        """To the host, where others leave to make room for it; out of memory, where that does not help."""
        session, used = self._sessions.get(id), self._known[id].used
        if (
            session is None
            or not self._tiers.has_host
            or self._runs(id)
            or not self._clear_host(session, but)
        ):
            return self._leave(id)
        if parked := self._tiers.park(session):
            self._note(session, used)
        return parked

    def _clear_host(self, session: Session, but: str | None) -> bool:
        """Have the least recently used sessions leave the host until this one fits; False if it cannot."""
        need = parked_bytes(session.row)
        while sum(known.host for known in self._known.values()) + need > self._host:
            parked = [id for id, known in self._known.items() if id != but and known.host]
            if need > self._host or not self._oldest(self._leave, parked):
                return False
        return True

    def _runs(self, id: str) -> bool:
        return any(turn.session == id for turn in self._reserved)

    def _leave(self, id: str) -> bool:
        held = self._sessions.get(id)
        if held is not None and (self._runs(id) or not self._tiers.evict(held)):
            return False
        self._known.pop(id, None)  # an observer of what left may have had others leave, this one too
        return held is not None
