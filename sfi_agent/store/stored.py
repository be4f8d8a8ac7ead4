"""A stored session that this process has open, and nobody else."""

from __future__ import annotations

import datetime
import errno
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from filelock import BaseFileLock

from sfi_agent.errors import SessionMismatchError, SessionNotFoundError, SessionNotSavedError
from sfi_agent.store.files import FileRecord, collect, make_folder, sync_folder, write_tensors
from sfi_agent.store.manifest import NAME, Manifest, ModelIdentity, Segment, read_manifest
from sfi_agent.store.reading import located, reading

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from sfi_agent.runtime.session import MakeSelector, Session
    from sfi_agent.store.snapshot import Snapshot


@dataclass(frozen=True)
class Saved:
    """What a save did: bytes written, bytes stored in all, seconds."""

    written: int
    stored: int
    seconds: float


class StoredSession:
    """The folder of one session, locked until ``close``; :meth:`SessionStore.open` makes it.

    Attributes:
        id: of the session.
        manifest: of the last save; None if there was none.
        stable: positions from 0 on whose KV in memory is what ``manifest``'s segments hold.
    """

    def __init__(self, id: str, folder: Path, lock: BaseFileLock) -> None:
        self.id, self._folder, self._lock = id, folder, lock
        self.manifest = located(id, folder)
        self.stable = 0

    def load(
        self, session: Session, identity: ModelIdentity, device: torch.device, make: MakeSelector
    ) -> str:
        """Give a new session what is stored; what begins anew, in words. Arguments as for ``restore``.

        Raises:
            SessionNotFoundError: nothing is stored.
            SessionMismatchError: it is of another model, tokenizer or dtype.
            SessionCorruptError: a file is not what was written.
        """
        from sfi_agent.store.restore import restore

        if (manifest := self.manifest) is None:
            raise SessionNotFoundError(f"no session {self.id!r} is stored")
        if differences := manifest.model.differences(identity):
            raise SessionMismatchError(_mismatch(self.id, manifest.model, identity, differences))
        with reading(self.id, self._folder):
            lost = restore(session, manifest, self._folder, device, make)
        self.stable = manifest.length
        return lost

    def snapshot(self, session: Session) -> Snapshot:
        """What the next ``save`` should write: the session as it is, between two turns.

        All of it, where a file of the last save is gone: a manifest that names it would be of no use.
        """
        from sfi_agent.store.snapshot import Snapshot

        kv = session.row.kv
        self.stable = min(self.stable, kv.unchanged)
        segments = self.manifest.segments if self.manifest else ()
        made = Snapshot.of(session, () if self._lost(segments) else segments, self.stable)
        kv.unchanged = kv.length
        return made

    def save(self, snapshot: Snapshot, identity: ModelIdentity) -> Saved:
        """Write a snapshot; until all of it is on the disk, what was stored before stays.

        Raises:
            SessionNotSavedError: it could not be written.
        """
        began, files = time.perf_counter(), _Files(self._folder)
        try:
            make_folder(self._folder)
            manifest = self._written(snapshot, identity, files)
            sync_folder(self._folder)
            manifest.write(self._folder)
        except OSError as error:
            if read_manifest(self._folder) == self.manifest:  # else the new one is in place already
                files.undo()
            raise SessionNotSavedError(_not_saved(self.id, self._folder, self.manifest, error)) from error
        self.manifest, self.stable = manifest, snapshot.length
        with suppress(OSError):  # the next save collects it
            collect(self._folder, {NAME, *manifest.files})
        written = sum(record.bytes for record in files.records.values())
        return Saved(written, manifest.stored, time.perf_counter() - began)

    def close(self) -> None:
        """Let others open the session; safe to call twice."""
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _written(self, snapshot: Snapshot, identity: ModelIdentity, files: _Files) -> Manifest:
        """Write the tensors; the manifest that goes with them."""
        from sfi_agent import __version__

        if lost := self._lost(snapshot.kept):  # since the snapshot; the next one has everything
            raise FileNotFoundError(errno.ENOENT, f"{lost} is not there as it was written")
        segments = list(snapshot.kept)
        for piece in snapshot.pieces:
            name = files.write("kv", snapshot.facts["turns"], piece.tensors)
            segments.append(Segment(file=name, first=piece.first, stop=piece.stop))
        state = files.write("state", snapshot.facts["turns"], snapshot.state)
        before = self.manifest.files if self.manifest else {}
        kept: dict[str, FileRecord] = {segment.file: before[segment.file] for segment in snapshot.kept}
        facts: dict[str, Any] = snapshot.facts
        return Manifest(
            **facts,
            saved=datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
            version=__version__,
            model=identity,
            segments=tuple(segments),
            state=state,
            files={**kept, **files.records},
        )

    def _lost(self, segments: Sequence[Segment]) -> str:
        """The first file of these that is missing or of another size than it was written; empty: none."""
        for name in (segment.file for segment in segments):
            try:
                size = (self._folder / name).stat().st_size
            except OSError:
                return name
            if self.manifest is None or size != self.manifest.files[name].bytes:
                return name
        return ""


class _Files:
    """The files of tensors that one save writes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._begun: list[Path] = []
        self.records: dict[str, FileRecord] = {}

    def write(self, kind: str, turn: int, tensors: dict[str, Tensor]) -> str:
        name = f"{kind}-{turn:06}-{secrets.token_hex(4)}.safetensors"
        self._begun.append(self._folder / name)
        self.records[name] = write_tensors(self._begun[-1], tensors)
        return name

    def undo(self) -> None:
        for path in self._begun:
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _mismatch(id: str, stored: ModelIdentity, here: ModelIdentity, differences: list[str]) -> str:
    told = ", ".join(f"{name} {getattr(stored, name)} (here: {getattr(here, name)})" for name in differences)
    mend = (
        f"dtype={stored.dtype!r}" if differences[0] == "dtype" else f"the model {stored.name!r} it began with"
    )
    return f"session {id!r} was saved with another {' and '.join(differences)}: {told}; load {mend}"


def _not_saved(id: str, folder: Path, before: Manifest | None, error: OSError) -> str:
    kept = f"it is stored as of turn {before.turns}" if before else "nothing of it is stored"
    return (
        f"session {id!r} was not saved in {folder}: {error.strerror or error}; {kept}. Make room or choose "
        "another folder, and save it again"
    )
