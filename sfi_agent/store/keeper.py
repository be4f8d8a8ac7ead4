"""Keeps a runtime's sessions in a store: each is read when it is asked for, and written after its turns."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch

from sfi_agent import events
from sfi_agent.errors import SessionBusyError
from sfi_agent.models.fingerprint import model_fingerprint, tokenizer_fingerprint
from sfi_agent.runtime.session import MakeSelector, Session
from sfi_agent.store.manifest import ModelIdentity
from sfi_agent.store.snapshot import Snapshot
from sfi_agent.store.store import SessionStore, taken
from sfi_agent.store.stored import StoredSession

if TYPE_CHECKING:
    from sfi_agent.runtime.runtime import Runtime

log = logging.getLogger(__name__)

WAITING_BYTES = 2**30
"""While snapshots of this many bytes wait for the disk, a turn that ends waits, too."""


@dataclass
class _Open:
    """An open session, where it is stored, and its save that is waiting or running.

    Attributes:
        notes: the session's, as they were when last sent to the disk or read; callers change them any time.
        snapshot: what a save that waits is going to write. The writer's queue holds no other, whose saves
            were given up, in memory.
    """

    session: Session
    stored: StoredSession
    notes: str
    saving: Future[None] | None = None
    snapshot: Snapshot | None = None
    error: Exception | None = None

    @property
    def unsaved(self) -> bool:
        """Whether a turn began, or notes changed, since the session was last sent to the disk."""
        return self.session.unsaved or _told(self.session.notes) != self.notes


class Keeper:
    """Reads and writes the sessions of one runtime; one thread writes, and ends its work when Python does.

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
        self._identify, self._device, self._make, self._emit = identify, device, make, emit
        self._open: dict[Session, _Open] = {}
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="sfi-sessions")
        self._changed = threading.Condition()
        self._waiting, self._writes = 0, 0

    @classmethod
    def of(cls, runtime: Runtime, store: SessionStore, emit: Callable[[events.Event], None]) -> Keeper:
        """The keeper of a runtime's sessions, whose events go to ``emit``."""

        def identify() -> ModelIdentity:
            return ModelIdentity(
                name=runtime.name,
                dtype=str(runtime.model.dtype).removeprefix("torch."),
                weights=model_fingerprint(runtime.model),
                tokenizer=tokenizer_fingerprint(runtime.tokenizer),
            )

        make = partial(runtime.registry.create, "selector")
        return cls(store, identify, lambda: runtime.device, make, emit)

    @cached_property
    def identity(self) -> ModelIdentity:
        """Of the runtime's model."""
        return self._identify()

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
        began, stored = time.perf_counter(), self.store.open(session.id)
        try:
            if (manifest := stored.manifest) is not None:
                lost = stored.load(session, self.identity, self._device(), self._make)
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
        self._open[session] = _Open(session, stored, _told(session.notes))

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
        self._open[session] = _Open(session, stored, _told(session.notes))

    def turn_over(self, session: Session) -> None:
        """Have the session written as it is now. The caller holds its lock.

        What keeps it from being written is logged, told as an event, and raised by ``wait`` and ``flush``;
        the turn's answer is right all the same.
        """
        if (entry := self._open.get(session)) is None:
            return
        try:
            self._submit(entry)
        except Exception as error:  # a plugin's state, say, or memory: the turn itself went well
            self._failed(entry, error)

    def wait(self, session: Session) -> None:
        """Wait until the disk has a session as it was when last sent there.

        Raises:
            SessionNotSavedError: it could not be written.
        """
        if (entry := self._open.get(session)) is not None:  # else it was written, and has left memory
            self._wait([entry])

    def flush(self) -> None:
        """Write every session that had a turn since it was written and has none now; wait for all.

        Raises:
            SessionNotSavedError: one could not be written.
        """
        for entry in list(self._open.values()):
            session = entry.session
            with session.held_if_free() as free:
                if free and entry.unsaved:
                    self.turn_over(session)
        self._wait(list(self._open.values()))

    def settled(self, session: Session) -> bool:
        """Have the session written; whether the disk has it. The caller holds its lock."""
        if (entry := self._open.get(session)) is None:
            return True
        if entry.unsaved:
            self.turn_over(session)
        wait([entry.saving] if entry.saving else [])
        return entry.error is None

    def _wait(self, entries: list[_Open]) -> None:
        """Wait until these are written; raise what kept one from being."""
        wait([entry.saving for entry in entries if entry.saving])
        for entry in entries:
            if (error := entry.error) is not None:
                entry.error = None
                raise error

    def release(self, session: Session) -> None:
        """Let other processes open the session, once it is written; unknown ones are fine."""
        if (entry := self._open.pop(session, None)) is None:
            return
        if entry.saving and threading.get_ident() == self._writes:  # told of a save: the next waits for it
            entry.saving.add_done_callback(lambda _: entry.stored.close())
            return
        wait([entry.saving] if entry.saving else [])
        entry.stored.close()

    def close(self) -> None:
        """Release every session and end the thread."""
        for session in self.sessions:
            self.release(session)
        self._writer.shutdown()

    def _submit(self, entry: _Open) -> None:
        """Queue a snapshot, in place of one of this session that has not been begun."""
        if entry.saving and not entry.saving.cancel():
            wait([entry.saving])
        with self._changed:
            self._changed.wait_for(lambda: self._waiting < WAITING_BYTES)
        entry.notes = _told(entry.session.notes)
        snapshot = entry.stored.snapshot(entry.session)
        with self._changed:
            self._waiting += snapshot.nbytes
        entry.session.unsaved, entry.snapshot = False, snapshot
        entry.saving = self._writer.submit(self._save, entry)
        entry.saving.add_done_callback(lambda _, size=snapshot.nbytes: self._written(size))  # type: ignore[misc]

    def _save(self, entry: _Open) -> None:
        self._writes = threading.get_ident()
        snapshot, entry.snapshot = entry.snapshot, None
        assert snapshot is not None
        try:
            saved = entry.stored.save(snapshot, self.identity)
        except Exception as error:  # in this thread nobody would hear of it; `wait` and `flush` raise it
            self._failed(entry, error)
            return
        entry.error = None
        self._emit(
            events.SessionSaved(
                session=entry.session.id,
                turn=snapshot.facts["turns"],
                tokens=snapshot.facts["tokens"],
                written=saved.written,
                stored=saved.stored,
                seconds=saved.seconds,
            )
        )

    def _failed(self, entry: _Open, error: Exception) -> None:
        session, reason = entry.session, " ".join(str(error).split()) or type(error).__name__
        entry.error, session.unsaved = error, True
        log.warning("%s", reason)
        self._emit(events.SessionNotSaved(session=session.id, turn=session.turns, reason=reason))

    def _written(self, size: int) -> None:
        with self._changed:
            self._waiting -= size
            self._changed.notify_all()


def _told(notes: dict[str, Any]) -> str:
    """Notes in words, to be compared; none where they are changed just now, or are no JSON at all."""
    try:
        return json.dumps(notes, default=repr)
    except (TypeError, ValueError, RuntimeError):
        return ""
