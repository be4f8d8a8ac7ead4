"""A stored session as one file: an uncompressed zip of the manifest and what it names."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from sfi_agent.errors import (
    SessionCorruptError,
    SessionError,
    SessionExistsError,
    SessionMismatchError,
    SessionNotFoundError,
)
from sfi_agent.store.files import BLOCK, FILE_MODE, FileRecord, create, record_of, sync_folder
from sfi_agent.store.manifest import NAME, Manifest

Read = Callable[[str, FileRecord, Path], None]
"""Puts the file of a name and a record into a folder."""


def export(manifest: Manifest, folder: Path, path: Path) -> None:
    """Write the session in ``folder`` to a new file, which only its owner can read.

    Raises:
        SessionExistsError: there is one at ``path``.
        SessionError: it cannot be written whole; nothing is left of it.
    """
    try:
        descriptor = create(path)
    except FileExistsError:
        raise SessionExistsError(f"{path} exists; remove it or choose another file") from None
    except OSError as error:
        raise SessionError(f"cannot write {path}: {error}") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, strict_timestamps=False) as packed:
                named = zipfile.ZipInfo(NAME)  # without the time, which may be one that no zip can tell
                named.external_attr = FILE_MODE << 16
                packed.writestr(named, manifest.encode())
                for name in manifest.files:
                    packed.write(folder / name, name)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            path.unlink()
        if isinstance(error, OSError):
            raise SessionError(f"cannot write {path}: {error}") from error
        raise


@contextmanager
def opened(path: Path) -> Iterator[tuple[Manifest, Read]]:
    """The manifest of an exported session, and what reads its files.

    Raises:
        SessionNotFoundError: there is no such file.
        SessionCorruptError, SessionMismatchError: it is not what was exported, or of another format.
    """
    if not path.exists():
        raise SessionNotFoundError(f"there is no file {path}")
    with ExitStack() as stack:
        with _understood(path):
            packed = stack.enter_context(zipfile.ZipFile(path))
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in packed.infolist()):
                raise zipfile.BadZipFile("it is compressed")
            manifest = Manifest.decode(packed.read(NAME))
        yield manifest, partial(_read, path, packed)


def _read(path: Path, packed: zipfile.ZipFile, name: str, record: FileRecord, folder: Path) -> None:
    with os.fdopen(create(folder / name), "wb") as out, ExitStack() as stack:
        with _understood(path):
            file = stack.enter_context(packed.open(name))
        left = record.bytes
        while left:  # never more than the manifest says
            with _understood(path):
                block = file.read(min(BLOCK, left))
            if not block:
                break
            out.write(block)
            left -= len(block)
        out.flush()
        os.fsync(out.fileno())
    if record_of(folder / name) != record:
        raise SessionCorruptError(f"{path} is damaged: {name} in it was changed; export the session again")


@contextmanager
def _understood(path: Path) -> Iterator[None]:
    """zipfile raises a dozen kinds of error over bytes that it did not write."""
    try:
        yield
    except SessionMismatchError as error:
        raise SessionMismatchError(f"{path} cannot be imported: {error}; update sfi-agent") from error
    except Exception as error:
        reason = " ".join(str(error).split())
        raise SessionCorruptError(f"{path} is damaged: {reason}; export the session again") from error
