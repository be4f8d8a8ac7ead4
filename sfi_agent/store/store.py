"""Sessions in a folder: open, list, inspect, fork, export, import, delete."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from sfi_agent.environment import expanded
from sfi_agent.errors import (
    SessionBusyError,
    SessionCorruptError,
    SessionError,
    SessionExistsError,
    SessionNotFoundError,
    SettingError,
)
from sfi_agent.store import archive
from sfi_agent.store.files import FILE_MODE, make_folder, read_checked, share, sync_folder
from sfi_agent.store.manifest import Manifest, read_manifest
from sfi_agent.store.naming import PATTERN, folder_name
from sfi_agent.store.stored import StoredSession, corrupt, located

LOCKS = ".locks"


@dataclass(frozen=True)
class SessionInfo:
    """What is stored of a session.

    Attributes:
        id: of the session; where nothing can be read, the name of its folder.
        turns: turns it had.
        tokens: tokens of the conversation.
        bytes: on disk. A fork shares those of its origin where the file system has links.
        model: name of the model it began with.
        dtype: of its KV.
        mode, selector: of the last turn; empty before the first.
        saved: when, ISO 8601, UTC.
        files: segments of KV, and the file with the rest.
        lost: what could not be stored and begins anew; empty if nothing.
        problem: why it cannot be used; empty if it can, as far as its manifest tells. Whether its files are
            as they were written is what ``inspect`` looks at.
    """

    id: str
    turns: int = 0
    tokens: int = 0
    bytes: int = 0
    model: str = ""
    dtype: str = ""
    mode: str = ""
    selector: str = ""
    saved: str = ""
    files: int = 0
    lost: str = ""
    problem: str = ""


class SessionStore:
    """Sessions kept in a folder, each in a folder of its own that only its owner can read.

    Any thread and any process may use the folder; a session is open in one of them at a time.

    Args:
        folder: made at the first save; ``~`` is the user's own.

    A session's id is what :class:`sfi_agent.Runtime` was given as ``session``.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = expanded(folder)

    def open(self, id: str) -> StoredSession:
        """Open session ``id`` to load and save it; one that is not stored begins empty.

        Raises:
            SessionBusyError: it is open elsewhere.
            SessionCorruptError, SessionMismatchError: it cannot be used, and is left as it is.
        """
        lock = self._lock(id)
        try:
            return StoredSession(id, self._path(id), lock)
        except BaseException:
            lock.release()
            raise

    def list(self) -> list[SessionInfo]:
        """Every session, latest first; one that cannot be read says why. Only manifests are read."""
        if not self.folder.is_dir():
            return []
        folders = [path for path in self.folder.iterdir() if PATTERN.fullmatch(path.name)]
        found = [info for folder in folders if (info := _described(folder)) is not None]
        return sorted(found, key=lambda info: (info.saved, info.id), reverse=True)

    def inspect(self, id: str) -> SessionInfo:
        """What is stored of session ``id``, every byte of it checked.

        Raises:
            SessionNotFoundError: nothing is.
            SessionCorruptError, SessionMismatchError: it cannot be used.
        """
        folder, manifest = self._path(id), self._manifest(id)
        while True:
            try:
                _check(id, folder, manifest)
                return _info(manifest)
            except SessionCorruptError:
                if (latest := self._manifest(id)) == manifest:
                    raise
                manifest = latest  # it was saved meanwhile, and the files read first were collected

    def fork(self, id: str, new: str) -> SessionInfo:
        """Store session ``id`` a second time, as ``new``; where files can be linked it takes no room.

        Raises:
            SessionNotFoundError, SessionBusyError, SessionCorruptError: of the origin.
            SessionExistsError: ``new`` is taken.
        """
        with self._opened(id):
            manifest, folder = self._manifest(id), self._path(id)
            if new == id:
                raise taken(id)
            _check(id, folder, manifest)
            with self._placed(new) as beside:
                for name in manifest.files:
                    share(folder / name, beside / name)
                forked = manifest.model_copy(update={"id": new})
                forked.write(beside)
        return _info(forked)

    def export(self, id: str, path: str | Path) -> SessionInfo:
        """Write session ``id`` to one new file, ``path``, which :meth:`import_` reads on any machine.

        Raises:
            SessionNotFoundError, SessionBusyError, SessionCorruptError: of the session.
            SessionExistsError: there is such a file.
            SessionError: the file cannot be written.
        """
        with self._opened(id):
            manifest, folder = self._manifest(id), self._path(id)
            _check(id, folder, manifest)
            archive.export(manifest, folder, expanded(path))
        return _info(manifest)

    def import_(self, path: str | Path, id: str | None = None) -> SessionInfo:
        """Store what :meth:`export` wrote to ``path``, under its own id or as ``id``.

        Raises:
            SessionNotFoundError: there is no such file.
            SessionCorruptError, SessionMismatchError: it is not what was exported, or of another format.
            SessionExistsError: the id is taken.
            SessionError: it cannot be written.
        """
        with archive.opened(expanded(path)) as (manifest, read):
            imported = manifest if id is None else manifest.model_copy(update={"id": id})
            with self._placed(imported.id) as beside:
                for name, record in imported.files.items():
                    read(name, record, beside)
                imported.write(beside)
        return _info(imported)

    def delete(self, id: str) -> None:
        """Remove session ``id`` and every file of it.

        Raises:
            SessionNotFoundError: nothing is stored.
            SessionBusyError: it is open elsewhere.
            SessionError: a file cannot be removed.
        """
        folder = self._found(id)
        lock = self._lock(id)
        try:
            self._found(id)  # still
            shutil.rmtree(folder)
            sync_folder(self.folder)
        except OSError as error:
            raise SessionError(f"session {id!r} was not wholly deleted: {error}; delete it again") from error
        finally:
            lock.release()

    def _path(self, id: str) -> Path:
        return self.folder / folder_name(_checked(id))

    def _found(self, id: str) -> Path:
        """The folder of a session that is stored; asking makes none."""
        if not (folder := self._path(id)).is_dir():
            raise self._unknown(id)
        return folder

    def _opened(self, id: str) -> StoredSession:
        """As :meth:`open`, of one that is stored."""
        self._found(id)
        return self.open(id)

    def _manifest(self, id: str) -> Manifest:
        if (manifest := located(id, self._path(id))) is None:
            raise self._unknown(id)
        return manifest

    def _unknown(self, id: str) -> SessionNotFoundError:
        return SessionNotFoundError(
            f"no session {id!r} is stored in {self.folder}; `sfi-agent sessions list` names those that are"
        )

    def _lock(self, id: str) -> FileLock:
        """The session's lock, held. Its file stays for good: to remove it would let two hold it."""
        folder = self.folder / LOCKS
        try:
            make_folder(self.folder)
            make_folder(folder)
            name = f"{folder_name(_checked(id))}.lock"
            lock = FileLock(folder / name, timeout=0, mode=FILE_MODE, thread_local=False)
            lock.acquire()
        except Timeout:
            raise SessionBusyError(
                f"session {id!r} is open in another process, or in another runtime of this one; drop it "
                "there (drop_session), end that, or take another id"
            ) from None
        except OSError as error:
            raise SessionError(f"sessions cannot be kept in {self.folder}: {error}") from error
        return lock

    @contextmanager
    def _placed(self, id: str) -> Iterator[Path]:
        """A folder to fill, which becomes that of session ``id`` if all goes well."""
        with self.open(id) as held:
            if held.manifest is not None:
                raise taken(id)
            folder = self._path(id)
            beside = folder.with_name(f".{folder.name}.new")
            try:
                shutil.rmtree(beside, ignore_errors=True)  # of an attempt that crashed
                make_folder(beside)
                yield beside
                sync_folder(beside)
                shutil.rmtree(folder, ignore_errors=True)  # without a manifest it holds nothing
                beside.replace(folder)
                sync_folder(self.folder)
            except OSError as error:
                raise SessionError(f"session {id!r} was not stored in {self.folder}: {error}") from error
            finally:
                shutil.rmtree(beside, ignore_errors=True)


def taken(id: str) -> SessionExistsError:
    """The error that says so."""
    return SessionExistsError(f"session {id!r} is stored already; choose another id, or delete it")


def _checked(id: str) -> str:
    try:
        id.encode("utf-8")
    except UnicodeEncodeError:
        raise SettingError(f"session: an id must be text that UTF-8 can hold (given {id!r})") from None
    return id


def _check(id: str, folder: Path, manifest: Manifest) -> None:
    """Read every file; raises SessionCorruptError for the first that is not what was written."""
    try:
        for name, record in manifest.files.items():
            read_checked(folder / name, record)
    except SessionCorruptError as error:
        raise SessionCorruptError(corrupt(id, folder, error)) from error
    except OSError as error:
        raise SessionError(f"session {id!r} cannot be read: {error}") from error


def _described(folder: Path) -> SessionInfo | None:
    """Of a folder; None if no session was ever saved in it whole."""
    try:
        manifest = read_manifest(folder)
    except (SessionError, OSError) as error:
        return SessionInfo(folder.name, problem=str(error))
    return None if manifest is None else _info(manifest)


def _info(manifest: Manifest) -> SessionInfo:
    policy = manifest.policy or {}
    return SessionInfo(
        id=manifest.id,
        turns=manifest.turns,
        tokens=manifest.tokens,
        bytes=manifest.stored,
        model=manifest.model.name,
        dtype=manifest.model.dtype,
        mode=policy.get("mode", ""),
        selector=policy.get("selector", ""),
        saved=manifest.saved,
        files=len(manifest.files),
        lost=manifest.lost,
    )
