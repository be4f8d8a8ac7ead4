"""The table of a runtime's sessions: which are in memory, which are held, and when one leaves."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, ItemsView, Iterator, Mapping, ValuesView
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from sfi_agent import events
from sfi_agent.errors import PromptError, SessionExistsError, SettingError
from sfi_agent.runtime.kv import BLOCK
from sfi_agent.runtime.limits import Limits
from sfi_agent.runtime.pool import PagePool
from sfi_agent.runtime.reserve import Admitted
from sfi_agent.runtime.residency import Residency
from sfi_agent.runtime.session import MakeSelector, Session
from sfi_agent.runtime.sizes import tensor_bytes
from sfi_agent.runtime.stats import MoveCounter, SessionStats, Tier
from sfi_agent.runtime.stream import Hands
from sfi_agent.store.keeper import Keeper


class SessionTable(Mapping[str, Session]):
    """Sessions in memory, by id. Safe from threads; a session itself is its holder's alone.

    Args:
        keeper: reads and writes those that are stored; None: sessions end with the process.
        limits: of what they may take; None: none.
        token_bytes: of one position's keys and values in all layers, as far as it is known.
        device: tells where the model is.
        moves: takes the events of sessions that move.
        pool: of their pages, which are a limit as well; None: there are none.
    """

    def __init__(
        self,
        keeper: Keeper | None,
        limits: Limits | None,
        token_bytes: int,
        device: Callable[[], torch.device],
        moves: MoveCounter,
        pool: PagePool | None = None,
    ) -> None:
        self._keeper, self._device, self._moves = keeper, device, moves
        self._sessions: dict[str, Session] = {}
        self._guard = threading.Lock()
        park = self._park if has_host(device()) else None
        self._residency: Residency | None = None
        if limits or pool:
            self._residency = Residency(limits or Limits(), self, token_bytes, self._evict, park, pool)

    def __getitem__(self, id: str) -> Session:
        return self._sessions[id]

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._sessions))

    def __len__(self) -> int:
        return len(self._sessions)

    def values(self) -> ValuesView[Session]:
        """Those of this moment: a session may leave while they are looked at."""
        return dict(self._sessions).values()

    def items(self) -> ItemsView[str, Session]:
        """As :meth:`values`."""
        return dict(self._sessions).items()

    def admitted(
        self, id: str | None, tokens: int, likely: int, timeout: float | None, reader: Hands | None = None
    ) -> AbstractContextManager[Admitted]:
        """Room for a turn that reaches at most ``tokens`` tokens; see ``Residency.admitted``.

        Raises:
            SFIError: a stream of this thread holds the session, and there is no timeout.
            StreamCancelledError: ``reader`` was, while it waited.
        """
        if id is not None and (session := self._sessions.get(id)) is not None:
            session.check_reader(timeout)
        if self._residency is None:
            return nullcontext(Admitted(id))
        return self._residency.admitted(id, tokens, likely, timeout, reader)

    @contextmanager
    def held(self, id: str | None, timeout: float | None, reader: Hands | None = None) -> Iterator[Session]:
        """The session of this id, its row on the device and its lock held for ``reader``; None: a new one.

        Raises:
            TurnTimeoutError: another turn still held it after ``timeout`` seconds.
            SFIError: a stream of this thread does, and there is no timeout.
            StreamCancelledError: ``reader`` was, while it waited.
            SessionError: it is stored and cannot be used here.
        """
        with self._opened(id, timeout, reader) as session:
            self._wake(session)
            yield session

    def turn_over(self, session: Session) -> None:
        """A turn ended: send the session to the store. The caller holds its lock."""
        if self._keeper:
            self._keeper.turn_over(session)

    def turn_collected(self, session: Session) -> None:
        """As :meth:`turn_over`, its holder gone already; nothing if it has another, who ends a turn, too."""
        session.in_step = False
        with session.held_if_free() as free:
            if free:
                self.turn_over(session)
        self._let_go(session)

    def _let_go(self, session: Session) -> None:
        """Whoever held a session's lock does no more: one that is nobody's now is released and forgotten.

        It has no id, or was dropped meanwhile.
        """
        if self._sessions.get(session.id) is session:
            return
        with session.held_if_free() as free:
            if free:
                if self._keeper:
                    self._keeper.release(session)
                session.forget()

    def notes(self, id: str, timeout: float | None) -> dict[str, Any]:
        """What callers keep with a session; see ``Runtime.notes``."""
        with self._opened(id, timeout) as session:
            notes = session.notes
        if self._residency:
            self._residency.touched(id)
        return notes

    def fork(self, id: str, new: str, make: MakeSelector, timeout: float | None) -> None:
        """Have a second session that goes on from where one is; see ``Runtime.fork``."""
        began = time.monotonic()

        def left() -> float | None:
            return None if timeout is None else timeout - (time.monotonic() - began)

        if new in self._sessions:
            raise _taken(new)
        with self._begun(id, timeout) as origin:
            both = 2 * len(origin.tokens) + BLOCK  # a copy's capacity is a whole block
        try:
            with self.admitted(id, both, 0, left()) as place, self._begun(id, left()) as origin:
                self._wake(origin)
                self._add(origin.fork(new, make))
                place.made = (new,)
        except PromptError:
            raise PromptError(
                f"session {id!r} and a copy of it do not fit the runtime's limit together; raise it "
                "(Limits(bytes=)), or fork the session in the store"
            ) from None

    def save(self, id: str, timeout: float | None) -> None:
        """Store a session and wait for the disk; see ``Runtime.save``."""
        if self._keeper is None:
            raise SettingError("this runtime stores no sessions; give it a folder: Runtime.load(..., store=)")
        if (session := self._sessions.get(id)) is None:
            raise _unknown(id)
        try:
            with session.held(timeout):
                self._wake(session)
                self._keeper.prepare(session)
                self._keeper.turn_over(session)
            self._keeper.wait(session)
        finally:
            self._let_go(session)

    def drop(self, id: str) -> None:
        """Forget a session; unknown ids are fine. What is stored of it stays stored."""
        if (dropped := self._sessions.pop(id, None)) is None:
            return
        self._let_go(dropped)  # unless a turn of it runs
        if self._residency:
            self._residency.forget(id)

    def flush(self) -> None:
        """Wait for the disk to have every session that no turn runs in; see ``Runtime.flush``."""
        if self._keeper is None:
            return
        try:
            self._keeper.flush()
        finally:
            for session in self._keeper.sessions:
                self._let_go(session)

    def clear(self) -> None:
        """Forget every session; the store, which ``close`` ends, still holds them open."""
        self._sessions.clear()

    def close(self) -> None:
        """Let other processes open the stored sessions."""
        if self._keeper:
            self._keeper.close()

    def stats(self) -> SessionStats:
        """Where the sessions are, and what moving them has cost."""
        sessions = list(self._sessions.values())
        parked = [row.nbytes for session in sessions if (row := session.parked) is not None]
        placed = [size for session in sessions if (size := tensor_bytes(session.row))]
        return self._moves.stats(Tier(len(placed), sum(placed)), Tier(len(parked), sum(parked)))

    @contextmanager
    def _opened(
        self, id: str | None, timeout: float | None, reader: Hands | None = None
    ) -> Iterator[Session]:
        """The session of this id, read from the store if it is there, its lock held."""
        while True:
            session = self._of(id)
            with self._holding(session, timeout, reader):
                if id is None or self._sessions.get(id) is session:
                    if self._keeper and id is not None:
                        self._prepare(session)
                    yield session
                    return
            # It left memory while this turn waited for it.

    @contextmanager
    def _holding(
        self, session: Session, timeout: float | None, reader: Hands | None = None
    ) -> Iterator[None]:
        """Hold a session's lock, and let it go."""
        try:
            with session.held(timeout, reader):
                yield
        finally:
            self._let_go(session)

    def _prepare(self, session: Session) -> None:
        """Read a session that is stored; one that cannot be leaves nothing. The caller holds its lock."""
        assert self._keeper
        try:
            self._keeper.prepare(session)
        except BaseException:
            if not session.turns and not session.notes:
                self._remove(session)
            raise

    @contextmanager
    def _begun(self, id: str, timeout: float | None) -> Iterator[Session]:
        """As :meth:`_opened`, of a session that had a turn."""
        with self._opened(id, timeout) as session:
            if not session.turns:
                if not session.notes:
                    self._remove(session)
                raise _unknown(id)
            yield session

    def _add(self, made: Session) -> None:
        """Have a new session in the table, and in the store if there is one."""
        with self._holding(made, None):  # nobody else knows it yet
            with self._guard:
                if self._sessions.setdefault(made.id, made) is not made:
                    raise _taken(made.id)
            if self._keeper is None:
                return
            try:
                self._keeper.begin(made)
            except BaseException:
                self._remove(made)
                raise
            self._keeper.turn_over(made)

    def _remove(self, session: Session) -> None:
        """Take a session out of the table. The caller holds its lock."""
        if self._keeper:
            self._keeper.release(session)
        with self._guard:
            if self._sessions.get(session.id) is session:
                del self._sessions[session.id]
        session.forget()

    def _of(self, id: str | None) -> Session:
        if id is None:
            return Session(f"turn-{secrets.token_hex(4)}")
        with self._guard:
            return self._sessions.setdefault(id, Session(id))

    def _evict(self, session: Session) -> bool:
        """Have an idle session leave memory, for the store if there is one; False if it cannot."""
        began = time.perf_counter()
        with session.held_if_free() as free:
            if not free:
                return False
            size = session.parked.nbytes if session.parked else tensor_bytes(session.row)
            if self._keeper and not self._keeper.settled(session):
                return False
            self._remove(session)
        self._let_go(session)
        self._moves.emit(
            events.SessionEvicted(
                session=session.id,
                turn=session.turns,
                bytes=size,
                stored=self._keeper is not None,
                seconds=time.perf_counter() - began,
            )
        )
        return True

    def _park(self, session: Session) -> bool:
        """Have an idle session go to the host's memory; False if it cannot.

        What the store lacks stays on the device until it is written, so that nothing parked needs saving.
        """
        with session.held_if_free() as free:
            if not free or (self._keeper and not self._keeper.settled(session)):
                return False
            with self._moving(session, "host"):
                session.park()
        self._let_go(session)
        return True

    def _wake(self, session: Session) -> None:
        """Bring a parked session back. The caller holds its lock."""
        if session.parked:
            with self._moving(session, "device"):
                session.wake(self._device())

    @contextmanager
    def _moving(self, session: Session, to: str) -> Iterator[None]:
        began, before = time.perf_counter(), session.parked
        yield
        parked = before or session.parked
        self._moves.emit(
            events.SessionMoved(
                session=session.id,
                turn=session.turns,
                to=to,
                bytes=parked.nbytes if parked else 0,
                seconds=time.perf_counter() - began,
            )
        )


def has_host(device: torch.device) -> bool:
    """Whether the memory of ``device`` is not the host's own."""
    return device.type != "cpu"


def _unknown(id: str) -> SettingError:
    return SettingError(f"this runtime has no session {id!r}; run a turn of it first")


def _taken(id: str) -> SessionExistsError:
    return SessionExistsError(f"session {id!r} is in memory already; choose another id, or drop it")
