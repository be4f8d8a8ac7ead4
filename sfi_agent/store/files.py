"""Files that are whole or not there: written beside, flushed to the disk, then renamed."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sfi_agent.errors import SessionCorruptError

if TYPE_CHECKING:
    from torch import Tensor

FILE_MODE, FOLDER_MODE = 0o600, 0o700
BLOCK = 2**20
"""Bytes hashed or copied at a time."""
TENSOR_FILE = re.compile(r"(kv|state)-[0-9]{6,}-[0-9a-f]{8}\.safetensors")
"""Every file of tensors in a session's folder."""


@dataclass(frozen=True)
class FileRecord:
    """What a file must be: its length in bytes and the SHA-256 of them, in hexadecimal."""

    bytes: int
    sha256: str


def make_folder(path: Path) -> None:
    """Make a folder that only its owner can enter, and its parents; one that exists stays as it is."""
    if path.is_dir():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=FOLDER_MODE, exist_ok=True)
    path.chmod(FOLDER_MODE)  # whatever the umask takes away
    sync_folder(path.parent)


def create(path: Path) -> int:
    """Make a file that only its owner can read; an open descriptor of it.

    Raises:
        FileExistsError: it is there already.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    os.fchmod(descriptor, FILE_MODE)
    return descriptor


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> FileRecord:
    """Write a new safetensors file and wait until the disk has it.

    Args:
        path: of a file that does not exist.
        tensors: contiguous, on the host.

    Raises:
        OSError: it could not be written whole; what was written of it stays.
    """
    from safetensors.torch import save

    data = save(tensors)  # its own way to a file neither keeps to our mode nor syncs, and hides errno
    _write(path, data)
    return FileRecord(len(data), hashlib.sha256(data).hexdigest())


def replace_file(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path`` in one step that a crash cannot halve.

    Raises:
        OSError: it could not; what was there before is there still.
    """
    beside = path.with_name(path.name + ".new")
    beside.unlink(missing_ok=True)
    try:
        _write(beside, data)
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _write(path: Path, data: bytes) -> None:
    with os.fdopen(create(path), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Wait until the disk has the names in this folder."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def record_of(path: Path) -> FileRecord:
    """The record of a file as it is."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            size += len(block)
    return FileRecord(size, digest.hexdigest())


def read_checked(path: Path, record: FileRecord) -> bytes:
    """The file's bytes.

    Raises:
        SessionCorruptError: they are not those of ``record``.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise SessionCorruptError(f"{path.name} is missing") from None
    found = FileRecord(len(data), hashlib.sha256(data).hexdigest())
    if found.bytes != record.bytes:
        raise SessionCorruptError(f"{path.name} has {found.bytes} bytes of {record.bytes}")
    if found != record:
        raise SessionCorruptError(f"{path.name} was changed since it was written")
    return data


def collect(folder: Path, kept: Collection[str]) -> None:
    """Remove what a session's folder holds besides ``kept``: files of saves that are no more."""
    for path in list(folder.iterdir()):
        if path.name not in kept and (TENSOR_FILE.fullmatch(path.name) or path.suffix == ".new"):
            path.unlink(missing_ok=True)


def share(source: Path, target: Path) -> None:
    """The same file under another name: a link where the file system has them, else a synced copy."""
    try:
        target.hardlink_to(source)
        return
    except OSError:
        target.unlink(missing_ok=True)
    with os.fdopen(create(target), "wb") as out, source.open("rb") as file:
        shutil.copyfileobj(file, out, BLOCK)
        out.flush()
        os.fsync(out.fileno())
