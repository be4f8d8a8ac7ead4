"""Sessions in a folder: open, list, inspect, fork, export, import, delete."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sfi_agent.environment import expanded
from sfi_agent.errors import (
    SessionCorruptError,
    SessionError,
    SessionExistsError,
    SessionNotFoundError,
    SettingError,
)
from sfi_agent.store import archive
from sfi_agent.store.files import make_folder, share, sync_folder
from sfi_agent.store.info import SessionInfo, described, info_of
from sfi_agent.store.locks import locked
from sfi_agent.store.manifest import NAME, Manifest
from sfi_agent.store.naming import PATTERN, folder_name
from sfi_agent.store.reading import check, located
from sfi_agent.store.stored import StoredSession


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
        lock = locked(id, folder := self._path(id))
        try:
            return StoredSession(id, folder, lock)
        except BaseException:
            lock.release()
            raise

    def __contains__(self, id: str) -> bool:
        """Whether a session of this id is stored.

        Raises:
            SessionCorruptError, SessionMismatchError: it cannot be used.
        """
        return located(id, self._path(id)) is not None

    def list(self) -> list[SessionInfo]:
        """Every session, latest first; one that cannot be read says why. Only manifests are read."""
        if not self.folder.is_dir():
            return []
        folders = [path for path in self.folder.iterdir() if PATTERN.fullmatch(path.name)]
        found = [info for folder in folders if (info := described(folder)) is not None]
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
                check(id, folder, manifest)
                return info_of(manifest)
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
            check(id, folder, manifest)
            with self._placed(new) as beside:
                for name in manifest.files:
                    share(folder / name, beside / name)
                forked = manifest.model_copy(update={"id": new})
                forked.write(beside)
        return info_of(forked)

    def export(self, id: str, path: str | Path) -> SessionInfo:
        """Write session ``id`` to one new file, ``path``, which :meth:`import_` reads on any machine.

        Raises:
            SessionNotFoundError, SessionBusyError, SessionCorruptError: of the session.
            SessionExistsError: there is such a file.
            SessionError: the file cannot be written.
        """
        with self._opened(id):
            manifest, folder = self._manifest(id), self._path(id)
            check(id, folder, manifest)
            archive.export(manifest, folder, expanded(path))
        return info_of(manifest)

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
        return info_of(imported)

    def delete(self, id: str) -> None:
        """Remove session ``id`` and every file of it.

        Raises:
            SessionNotFoundError: nothing is stored.
            SessionBusyError: it is open elsewhere.
            SessionError: a file cannot be removed.
        """
        folder = self._found(id)
        lock = locked(id, folder)
        try:
            self._found(id)  # still
            (folder / NAME).unlink(missing_ok=True)  # first: without it the rest is no session
            sync_folder(folder)
            shutil.rmtree(folder)
            sync_folder(self.folder)
        except OSError as error:
            raise SessionError(f"session {id!r} was not wholly deleted: {error}; delete it again") from error
        finally:
            lock.release()

    def _path(self, id: str) -> Path:
        try:
            id.encode("utf-8")
        except UnicodeEncodeError:
            raise SettingError(f"session: an id must be text that UTF-8 can hold (given {id!r})") from None
        return self.folder / folder_name(id)

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
