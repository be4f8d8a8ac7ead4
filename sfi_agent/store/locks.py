"""Who has a session open: a lock for each, which ends with its process."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock, Timeout

from sfi_agent.errors import SessionBusyError, SessionError
from sfi_agent.store.files import FILE_MODE, make_folder

LOCKS = ".locks"


def locked(id: str, folder: Path) -> FileLock:
    """The lock of session ``id``, held. Its file stays for good: to remove it would let two hold it.

    Args:
        id: of the session.
        folder: of the session, beside which the locks are; there need be none yet.

    Raises:
        SessionBusyError: another process holds it, or another runtime of this one.
        SessionError: there can be no locks here.
    """
    store = folder.parent
    try:
        make_folder(store)
        make_folder(store / LOCKS)
        lock = FileLock(store / LOCKS / f"{folder.name}.lock", timeout=0, mode=FILE_MODE, thread_local=False)
        lock.acquire()
    except Timeout:
        raise SessionBusyError(
            f"session {id!r} is open in another process, or in another runtime of this one; drop it "
            "there (drop_session), end that, or take another id"
        ) from None
    except OSError as error:
        raise SessionError(f"sessions cannot be kept in {store}: {error}") from error
    return lock
