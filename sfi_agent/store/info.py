"""What is told of a stored session, by its manifest alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sfi_agent.errors import SessionError
from sfi_agent.store.manifest import Manifest, read_manifest


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


def described(folder: Path) -> SessionInfo | None:
    """Of a folder; None if no session was ever saved in it whole."""
    try:
        manifest = read_manifest(folder)
    except (SessionError, OSError) as error:
        return SessionInfo(folder.name, problem=str(error))
    return None if manifest is None else info_of(manifest)


def info_of(manifest: Manifest) -> SessionInfo:
    """Of a session that can be used."""
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
