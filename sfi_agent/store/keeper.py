"""Keeps a runtime's sessions in a store: each is read when it is asked for, and written after its turns."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING

import torch

from sfi_agent import events
from sfi_agent.errors import SessionBusyError
from sfi_agent.models.fingerprint import model_fingerprint, tokenizer_fingerprint
from sfi_agent.runtime.session import MakeSelector, Session
from sfi_agent.store.manifest import ModelIdentity
from sfi_agent.store.store import SessionStore, taken
from sfi_agent.store.writer import OpenSession, Writer

if TYPE_CHECKING:
    from sfi_agent.runtime.runtime import Runtime


class Keeper:
    """Reads the sessions of one runtime, and has a :class:`~sfi_agent.store.writer.Writer` write them.

    Args:
        store: where sessions are.
        identify: tells which model this is; called once, when first needed.
        device: where the model is.
        make: makes a selector by name and settings.
        emit: takes events.
    """

    def __init__(
        self,
        store: SessionStore,
        identify: Callable[[], ModelIdentity],
        device: Callable[[], torch.device],
        make: MakeSelector,
        emit: Callable[[events.Event], None],
    ) -> None:
        self.store = store
        self._identity, self._device, self._make, self._emit = cache(identify), device, make, emit
        self._open: dict[Session, OpenSession] = {}
        self._leaving: dict[str, threading.Event] = {}  # by id, those being released: set once they are
        self._writer = Writer(self._identity, emit)

    @classmethod
    def of(cls, runtime: Runtime, store: SessionStore, emit: Callable[[events.Event], None]) -> Keeper:
        """The keeper of a runtime's sessions, whose events go to ``emit``."""

        name, model, tokenizer = runtime.name, runtime.model, runtime.tokenizer

        def identify() -> ModelIdentity:
            return ModelIdentity(
                name=name,
                dtype=str(model.dtype).removeprefix("torch."),
                weights=model_fingerprint(model),
                tokenizer=tokenizer_fingerprint(tokenizer),
            )

        make = partial(runtime.registry.create, "selector")
        return cls(store, identify, lambda: model.device, make, emit)

    @property
    def sessions(self) -> list[Session]:
        """Those that are open."""
        return list(self._open)

    def prepare(self, session: Session) -> None:
        """Open the session, and read it if it is stored; nothing if it is open. The caller holds its lock.

        Raises:
            SessionBusyError: another process has it open, or a turn from before it was dropped.
            SessionCorruptError, SessionMismatchError: it cannot be used here.
        """
        if session in self._open:
            return
        if any(other.id == session.id for other in self.sessions):
            raise SessionBusyError(
                f"session {session.id!r} was dropped during a turn of it, which still runs; ask again when "
                "that has ended"
            )
        if (leaving := self._leaving.get(session.id)) and not self._writer.here:
            leaving.wait()
        began, stored = time.perf_counter(), self.store.open(session.id)
        try:
            if (manifest := stored.manifest) is not None:
                lost = stored.load(session, self._identity(), self._device(), self._make)
                self._emit(
                    events.SessionLoaded(
                        session=session.id,
                        turn=manifest.turns,
                        tokens=manifest.tokens,
                        stored=manifest.stored,
                        seconds=time.perf_counter() - began,
                        lost=lost,
                    )
                )
        except BaseException:
            stored.close()
            raise
        self._open[session] = OpenSession(session, stored)

    def begin(self, session: Session) -> None:
        """Open a session that is in memory and not stored yet. The caller holds its lock.

        Raises:
            SessionExistsError: one of its id is stored.
            SessionBusyError: another process has it open.
        """
        stored = self.store.open(session.id)
        if stored.manifest is not None:
            stored.close()
            raise taken(session.id)
        self._open[session] = OpenSession(session, stored)

    def turn_over(self, session: Session) -> None:
        """Have the session written as it is now. The caller holds its lock.

        What keeps it from being written is logged, told as an event, and raised by ``wait`` and ``flush``;
        the turn's answer is right all the same.
        """
        if (entry := self._open.get(session)) is not None:
            self._writer.write(entry)

    def wait(self, session: Session) -> None:
        """Wait until the disk has a session as it was when last sent there.

        Raises:
            SessionNotSavedError: it could not be written.
        """
        if (entry := self._open.get(session)) is not None:  # else it was written, and has left memory
            self._writer.wait(entry)
            entry.check()

    def flush(self) -> None:
        """Write every session that had a turn since it was written and has none now; wait for all.

        Raises:
            SessionNotSavedError: one could not be written.
        """
        for entry in list(self._open.values()):
            session = entry.session
            with session.held_if_free() as free:
                if free and session.unsaved:
                    self.turn_over(session)
        entries = list(self._open.values())
        for entry in entries:
            self._writer.wait(entry)
        for entry in entries:
            entry.check()

    def settled(self, session: Session) -> bool:
        """Have the session written; whether the disk has it by now. The caller holds its lock."""
        if (entry := self._open.get(session)) is None:
            return True
        if session.unsaved:
            self.turn_over(session)
        return self._writer.settled(entry)

    def release(self, session: Session) -> None:
        """Let other processes open the session, once it is written; unknown ones are fine."""
        if (entry := self._open.get(session)) is None:
            return
        self._leaving[session.id] = entry.closed  # before it is open no more
        if self._open.pop(session, None) is not None:
            self._writer.release(entry)
        if entry.closed.is_set() and self._leaving.get(session.id) is entry.closed:
            self._leaving.pop(session.id, None)

    def close(self) -> None:
        """Release every session and end the thread."""
        for session in self.sessions:
            self.release(session)
        self._writer.close()
