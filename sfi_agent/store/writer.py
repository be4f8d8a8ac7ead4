"""Writes open sessions in the background: snapshots wait for one thread, up to so many bytes of them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from sfi_agent import events
from sfi_agent.errors import SFIError
from sfi_agent.runtime.session import Session
from sfi_agent.store.manifest import ModelIdentity
from sfi_agent.store.snapshot import Snapshot
from sfi_agent.store.stored import StoredSession

log = logging.getLogger(__name__)

WAITING_BYTES = 2**30
"""While snapshots of this many bytes wait for the disk, a turn that ends waits, too."""


@dataclass
class OpenSession:
    """An open session, where it is stored, and its save that is waiting or running.

    Attributes:
        snapshot: what a save that waits is going to write. The writer's queue holds no other, whose saves
            were given up, in memory.
        error: what kept the session from being written; None: nothing did.
        closed: set once others can open the session.
    """

    session: Session
    stored: StoredSession
    saving: Future[None] | None = None
    snapshot: Snapshot | None = None
    error: Exception | None = None
    closed: threading.Event = field(default_factory=threading.Event)

    def close(self) -> None:
        """Let others open the session."""
        try:
            self.stored.close()
        finally:
            self.closed.set()

    def check(self) -> None:
        """Raise what kept the session from being written, once."""
        error, self.error = self.error, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # its traceback knows this call, and through that a runtime

    def copied(self) -> Snapshot:
        """The session as it is, to be written. The caller holds its lock."""
        self.snapshot = self.stored.snapshot(self.session)
        self.session.unsaved = False
        return self.snapshot


class Writer:
    """One thread that writes sessions; it ends its work when Python does.

    Args:
        identity: tells which model's the sessions are.
        emit: takes events.
    """

    def __init__(self, identity: Callable[[], ModelIdentity], emit: Callable[[events.Event], None]) -> None:
        self._identity, self._emit = identity, emit
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sfi-sessions")
        self._changed = threading.Condition()
        self._waiting, self._writes = 0, 0

    def write(self, entry: OpenSession) -> None:
        """Have a session written as it is now. The caller holds its lock.

        What keeps it from being written is logged, told as an event, and kept as its ``error``.
        """
        try:
            self._submit(entry)
        except Exception as error:  # a plugin's state, say, or memory: the turn itself went well
            self._failed(entry, error)

    @property
    def here(self) -> bool:
        """Whether this is its thread: an observer is told of a save, and whoever waits does so for ever."""
        return threading.get_ident() == self._writes

    def wait(self, entry: OpenSession) -> None:
        """Wait until what was sent to the disk is there, or could not be written.

        Raises:
            SFIError: this is its thread.
        """
        if self.here:
            raise SFIError(
                "an observer that is told of a save cannot wait for one; do that in another thread"
            )
        wait([entry.saving] if entry.saving else [])

    def settled(self, entry: OpenSession) -> bool:
        """Whether the disk has the session as it is. It is waited for, unless this is its thread."""
        if not self.here:
            self.wait(entry)
        done = entry.saving is None or entry.saving.done()
        return done and not entry.session.unsaved and entry.error is None

    def release(self, entry: OpenSession) -> None:
        """Let others open the session, once it is written. That is waited for, unless this is its thread."""
        if entry.saving:
            entry.saving.add_done_callback(lambda _: entry.close())
        else:
            entry.close()
        if not self.here:
            entry.closed.wait()

    def close(self) -> None:
        """End the thread, once all is written."""
        self._thread.shutdown()

    def _submit(self, entry: OpenSession) -> None:
        """Queue a snapshot, in place of one of this session that has not been begun."""
        if entry.saving and not entry.saving.cancel() and not self.here:
            self.wait(entry)
        with self._changed:
            self._changed.wait_for(lambda: self._waiting < WAITING_BYTES or self.here)
        size = entry.copied().nbytes
        with self._changed:
            self._waiting += size
        entry.saving = self._thread.submit(self._save, entry)
        entry.saving.add_done_callback(lambda _: self._written(size))

    def _save(self, entry: OpenSession) -> None:
        self._writes = threading.get_ident()
        snapshot, entry.snapshot = entry.snapshot, None
        assert snapshot is not None
        try:
            saved = entry.stored.save(snapshot, self._identity())
        except Exception as error:  # in this thread nobody would hear of it; the session's `error` is raised
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

    def _failed(self, entry: OpenSession, error: Exception) -> None:
        session, reason = entry.session, " ".join(str(error).split()) or type(error).__name__
        entry.error, session.unsaved = error, True
        log.warning("%s", reason)
        self._emit(events.SessionNotSaved(session=session.id, turn=session.turns, reason=reason))

    def _written(self, size: int) -> None:
        with self._changed:
            self._waiting -= size
            self._changed.notify_all()
