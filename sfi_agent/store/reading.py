"""Reading the folder of a session: errors name the session, and say how to go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sfi_agent.errors import SessionCorruptError, SessionError, SessionMismatchError
from sfi_agent.store.files import read_checked
from sfi_agent.store.manifest import Manifest, read_manifest


@contextmanager
def reading(id: str, folder: Path) -> Iterator[None]:
    """What is raised while session ``id`` is read from ``folder`` says so."""
    try:
        yield
    except SessionCorruptError as error:
        raise SessionCorruptError(
            f"session {id!r} is damaged: {error}; put a copy of {folder} back, or delete the session "
            "(sfi-agent sessions delete) and begin it anew"
        ) from error
    except SessionMismatchError as error:
        raise SessionMismatchError(f"session {id!r} cannot be read: {error}; update sfi-agent") from error
    except OSError as error:
        raise SessionError(f"session {id!r} cannot be read: {error}") from error


def located(id: str, folder: Path) -> Manifest | None:
    """The manifest of session ``id`` in ``folder``; None if it was never saved there.

    Raises:
        SessionCorruptError, SessionMismatchError: it cannot be used.
        SessionError: it cannot be read.
    """
    with reading(id, folder):
        manifest = read_manifest(folder)
    if manifest is not None and manifest.id != id:
        raise SessionCorruptError(f"{folder} holds session {manifest.id!r}, not {id!r}; move it away")
    return manifest


def check(id: str, folder: Path, manifest: Manifest) -> None:
    """Read every file of session ``id``.

    Raises:
        SessionCorruptError: one is not what was written.
        SessionError: one cannot be read.
    """
    with reading(id, folder):
        for name, record in manifest.files.items():
            read_checked(folder / name, record)
