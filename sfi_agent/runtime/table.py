"""The table of a runtime's sessions: what turns and callers do with them."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, ItemsView, Iterator, Mapping, ValuesView
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from sfi_agent.errors import PromptError, SettingError
from sfi_agent.runtime.held import HeldSessions, taken, unknown
from sfi_agent.runtime.kv import BLOCK
from sfi_agent.runtime.limits import Limits
from sfi_agent.runtime.pool import PagePool
from sfi_agent.runtime.reserve import Admitted
from sfi_agent.runtime.residency import Residency
from sfi_agent.runtime.session import MakeSelector, Session
from sfi_agent.runtime.stats import MoveCounter, SessionStats
from sfi_agent.runtime.stream import Hands
from sfi_agent.runtime.tiers import Tiers
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
        self._keeper, self._held = keeper, HeldSessions(keeper)
        self._tiers = Tiers(self._held, keeper, device, moves)
        self._residency: Residency | None = None
        if limits or pool:
            self._residency = Residency(limits or Limits(), self._held.by_id, token_bytes, self._tiers, pool)

    def __getitem__(self, id: str) -> Session:
        return self._held.by_id[id]

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._held.by_id))

    def __len__(self) -> int:
        return len(self._held.by_id)

    def values(self) -> ValuesView[Session]:
        """Those of this moment: a session may leave while they are looked at."""
        return dict(self._held.by_id).values()

    def items(self) -> ItemsView[str, Session]:
        """As :meth:`values`."""
        return dict(self._held.by_id).items()

    def admitted(
        self, id: str | None, tokens: int, likely: int, timeout: float | None, reader: Hands | None = None
    ) -> AbstractContextManager[Admitted]:
        """Room for a turn that reaches at most ``tokens`` tokens; see ``Residency.admitted``.

        Raises:
            SFIError: a stream of this thread holds the session, and there is no timeout.
            StreamCancelledError: ``reader`` was, while it waited.
        """
        if id is not None and (session := self._held.by_id.get(id)) is not None:
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
        with self._held.opened(id, timeout, reader) as session:
            self._tiers.wake(session)
            yield session

    def turn_over(self, session: Session) -> None:
        """A turn ended: send the session to the store. The caller holds its lock."""
        if self._keeper:
            self._keeper.turn_over(session)

    def turn_collected(self, session: Session) -> None:
        """As :meth:`turn_over`, its holder gone already; nothing if it has another, who ends a turn, too."""
        session.in_step = False
        with self._held.if_free(session) as free:
            if free:
                self.turn_over(session)

    def notes(self, id: str, timeout: float | None) -> dict[str, Any]:
        """What callers keep with a session; see ``Runtime.notes``."""
        with self._held.opened(id, timeout) as session:
            notes = copy.deepcopy(session.notes)
            self._held.remove_if_empty(session)
        if self._residency:
            self._residency.touched(id)
        return notes

    def set_notes(self, id: str, notes: Mapping[str, Any], timeout: float | None) -> None:
        """Keep something with a session; see ``Runtime.set_notes``."""
        try:
            plain = json.loads(json.dumps(dict(notes), allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            raise SettingError(f"notes: must be a mapping that JSON can hold ({error})") from None
        with self._held.opened(id, timeout) as session:
            session.notes, session.unsaved = plain, True
        if self._residency:
            self._residency.touched(id)

    def fork(self, id: str, new: str, make: MakeSelector, timeout: float | None) -> None:
        """Have a second session that goes on from where one is; see ``Runtime.fork``."""
        began = time.monotonic()

        def left() -> float | None:
            return None if timeout is None else timeout - (time.monotonic() - began)

        if new in self:
            raise taken(new)
        with self._held.begun(id, timeout) as origin:
            both = 2 * len(origin.tokens) + BLOCK  # a copy's capacity is a whole block
        try:
            with self.admitted(id, both, 0, left()) as place, self._held.begun(id, left()) as origin:
                self._tiers.wake(origin)
                self._held.add(origin.fork(new, make))
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
        if (session := self._held.by_id.get(id)) is None:
            if id in self._keeper.store:  # it was written before it left memory
                return
            raise unknown(id)
        try:
            with session.held(timeout):
                self._tiers.wake(session)
                self._keeper.prepare(session)
                self._keeper.turn_over(session)
            self._keeper.wait(session)
        finally:
            self._held.let_go(session)

    def drop(self, id: str) -> None:
        """Forget a session; unknown ids are fine. What is stored of it stays stored."""
        if self._held.drop(id) and self._residency:
            self._residency.forget(id)

    def flush(self) -> None:
        """Wait for the disk to have every session that no turn runs in; see ``Runtime.flush``."""
        if self._keeper is None:
            return
        try:
            self._keeper.flush()
        finally:
            for session in self._keeper.sessions:
                self._held.let_go(session)

    def clear(self) -> None:
        """Forget every session; the store, which ``close`` ends, still holds them open."""
        self._held.by_id.clear()

    def close(self) -> None:
        """Let other processes open the stored sessions."""
        if self._keeper:
            self._keeper.close()

    def stats(self) -> SessionStats:
        """Where the sessions are, and what moving them has cost."""
        return self._tiers.stats()
