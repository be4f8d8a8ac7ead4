"""The table of a runtime's sessions: which are in memory, which are held, and when one leaves."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from sfi_agent import events
from sfi_agent.errors import SettingError
from sfi_agent.runtime.residency import Limits, Residency, tensor_bytes
from sfi_agent.runtime.session import Session
from sfi_agent.store.keeper import Keeper


class SessionTable(Mapping[str, Session]):
    """Sessions in memory, by id. Safe from threads; a session itself is its holder's alone.

    Args:
        keeper: reads and writes those that are stored; None: sessions end with the process.
        limits: of what they may take; None: none.
        token_bytes: of one position's keys and values in all layers, as far as it is known.
        emit: takes events.
    """

    def __init__(
        self,
        keeper: Keeper | None,
        limits: Limits | None,
        token_bytes: int,
        emit: Callable[[events.Event], None],
    ) -> None:
        self._keeper, self._emit = keeper, emit
        self._sessions: dict[str, Session] = {}
        self._guard = threading.Lock()
        self._residency = Residency(limits, self, self._evict, token_bytes) if limits else None

    def __getitem__(self, id: str) -> Session:
        return self._sessions[id]

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._sessions))

    def __len__(self) -> int:
        return len(self._sessions)

    def admitted(self, id: str | None, tokens: int, timeout: float | None) -> AbstractContextManager[None]:
        """Room for a turn that reaches at most ``tokens`` tokens; see ``Residency.admitted``."""
        return self._residency.admitted(id, tokens, timeout) if self._residency else nullcontext()

    @contextmanager
    def held(self, id: str | None, timeout: float | None) -> Iterator[Session]:
        """The session of this id, read from the store if it is there, its lock held; None: a new one.

        Raises:
            TurnTimeoutError: another turn still held it after ``timeout`` seconds.
            SessionError: it is stored and cannot be used here.
        """
        while True:
            session = self._of(id)
            with session.held(timeout):
                if id is None or self._sessions.get(id) is session:
                    if self._keeper and id is not None:
                        self._keeper.prepare(session)
                    yield session
                    return
            # It left memory while this turn waited for it.

    def turn_over(self, session: Session) -> None:
        """A turn ended: send the session to the store. The caller holds its lock."""
        if self._keeper:
            self._keeper.turn_over(session)
            if self._sessions.get(session.id) is not session:  # dropped meanwhile
                self._keeper.release(session)

    def notes(self, id: str, timeout: float | None) -> dict[str, Any]:
        """What callers keep with a session; see ``Runtime.notes``."""
        with self.held(id, timeout) as session:
            notes = session.notes
        if self._residency:
            self._residency.touched(id)
        return notes

    def save(self, id: str, timeout: float | None) -> None:
        """Store a session and wait for the disk; see ``Runtime.save``."""
        if self._keeper is None:
            raise SettingError("this runtime stores no sessions; give it a folder: Runtime.load(..., store=)")
        if (session := self._sessions.get(id)) is None:
            raise SettingError(f"this runtime has no session {id!r}; run a turn of it first")
        self._keeper.save(session, timeout)

    def drop(self, id: str) -> None:
        """Forget a session; unknown ids are fine. What is stored of it stays stored."""
        dropped = self._sessions.pop(id, None)
        if self._keeper and dropped:
            self._keeper.drop(dropped)

    def flush(self) -> None:
        """Wait for the disk to have every session that no turn runs in; see ``Runtime.flush``."""
        if self._keeper:
            self._keeper.flush()

    def clear(self) -> None:
        """Forget every session; the store, which ``close`` ends, still holds them open."""
        self._sessions.clear()

    def close(self) -> None:
        """Let other processes open the stored sessions."""
        if self._keeper:
            self._keeper.close()

    def _of(self, id: str | None) -> Session:
        if id is None:
            return Session(f"turn-{secrets.token_hex(4)}")
        with self._guard:
            return self._sessions.setdefault(id, Session(id))

    def _evict(self, session: Session) -> bool:
        """Have an idle session leave memory, for the store if there is one; False if it cannot."""
        with session.held_if_free() as free:
            if not free:
                return False
            size = tensor_bytes(session.row)
            if self._keeper and not self._keeper.put_away(session):
                return False
            with self._guard:
                if self._sessions.get(session.id) is session:
                    del self._sessions[session.id]
        stored = self._keeper is not None
        self._emit(events.SessionEvicted(session=session.id, turn=session.turns, bytes=size, stored=stored))
        return True
