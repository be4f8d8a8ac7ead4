"""Who holds a session: each is opened, held by one at a time, and let go."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sfi_agent.errors import SessionExistsError, SettingError
from sfi_agent.runtime.session import Session
from sfi_agent.runtime.stream import Hands
from sfi_agent.store.keeper import Keeper


class HeldSessions:
    """Sessions in memory, safe from threads; a session itself is its holder's alone.

    Args:
        keeper: reads and writes those that are stored; None: sessions end with the process.

    Attributes:
        by_id: those in memory. Another thread may take one out at any time.
    """

    def __init__(self, keeper: Keeper | None) -> None:
        self._keeper = keeper
        self.by_id: dict[str, Session] = {}
        self._guard = threading.RLock()  # a stream may be collected, and leave its session, inside of it

    @contextmanager
    def opened(self, id: str | None, timeout: float | None, reader: Hands | None = None) -> Iterator[Session]:
        """The session of this id, read from the store if it is there, its lock held; None: a new one.

        Raises:
            SessionError: it is stored and cannot be used here.

        Others as :meth:`Session.held`.
        """
        while True:
            session = self._of(id)
            with self._holding(session, timeout, reader):
                if id is None or self.by_id.get(id) is session:
                    if self._keeper and id is not None:
                        self._prepare(session, self._keeper)
                    yield session
                    return
            # It left memory while this turn waited for it.

    @contextmanager
    def begun(self, id: str, timeout: float | None) -> Iterator[Session]:
        """As :meth:`opened`, of a session that had a turn.

        Raises:
            SettingError: there is none.
        """
        with self.opened(id, timeout) as session:
            if not session.turns:
                self.remove_if_empty(session)
                raise unknown(id)
            yield session

    @contextmanager
    def if_free(self, session: Session) -> Iterator[bool]:
        """Hold a session's lock if nobody does, and let it go; whether it is held."""
        try:
            with session.held_if_free() as free:
                yield free
        finally:
            self.let_go(session)

    def let_go(self, session: Session) -> None:
        """Whoever held a session's lock does no more: one that is nobody's now is released and forgotten.

        It has no id, or was dropped meanwhile.
        """
        if self.by_id.get(session.id) is session:
            return
        with session.held_if_free() as free:
            if free:
                if self._keeper:
                    self._keeper.release(session)
                session.forget()

    def add(self, made: Session) -> None:
        """Have a new session in memory, and in the store if there is one.

        Raises:
            SessionExistsError: one of its id is there.
        """
        with self._holding(made, None):  # nobody else knows it yet
            with self._guard:
                if self.by_id.setdefault(made.id, made) is not made:
                    raise taken(made.id)
            if self._keeper is None:
                return
            try:
                self._keeper.begin(made)
            except BaseException:
                self.remove(made)
                raise
            self._keeper.turn_over(made)

    def remove(self, session: Session) -> None:
        """Have a session leave memory. The caller holds its lock."""
        if self._keeper:
            self._keeper.release(session)
        with self._guard:
            if self.by_id.get(session.id) is session:
                del self.by_id[session.id]
        session.forget()

    def remove_if_empty(self, session: Session) -> None:
        """Have a session leave memory that had no turn and has no notes. The caller holds its lock."""
        if not session.turns and not session.notes:
            self.remove(session)

    def drop(self, id: str) -> bool:
        """Forget a session, once no turn of it runs; whether there was one."""
        if (dropped := self.by_id.pop(id, None)) is None:
            return False
        self.let_go(dropped)
        return True

    def _of(self, id: str | None) -> Session:
        if id is None:
            return Session(f"turn-{secrets.token_hex(4)}")
        with self._guard:
            return self.by_id.setdefault(id, Session(id))

    @contextmanager
    def _holding(
        self, session: Session, timeout: float | None, reader: Hands | None = None
    ) -> Iterator[None]:
        """Hold a session's lock, and let it go."""
        try:
            with session.held(timeout, reader):
                yield
        finally:
            self.let_go(session)

    def _prepare(self, session: Session, keeper: Keeper) -> None:
        """Read a session that is stored; one that cannot be leaves nothing. The caller holds its lock."""
        try:
            keeper.prepare(session)
        except BaseException:
            self.remove_if_empty(session)
            raise


def unknown(id: str) -> SettingError:
    """The error that says so."""
    return SettingError(f"this runtime has no session {id!r}; run a turn of it first")


def taken(id: str) -> SessionExistsError:
    """The error that says so."""
    return SessionExistsError(f"session {id!r} is in memory already; choose another id, or drop it")
