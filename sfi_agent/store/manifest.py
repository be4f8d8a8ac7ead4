"""``manifest.json``: what a stored session is, and which files it consists of."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from sfi_agent.errors import SessionCorruptError, SessionMismatchError
from sfi_agent.policy import one_line
from sfi_agent.store.files import TENSOR_FILE, FileRecord, replace_file

FORMAT = 1
"""Of what this version writes; it reads no other."""
NAME = "manifest.json"


class _Part(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")


class ModelIdentity(_Part):
    """Which model a session belongs to.

    Attributes:
        name: as it was asked for; another name of the same weights is fine.
        dtype: of the KV.
        weights: digest of the weights and rotary settings.
        tokenizer: digest of the vocabulary.
    """

    name: str
    dtype: str
    weights: str
    tokenizer: str

    def differences(self, other: ModelIdentity) -> list[str]:
        """The names of what makes a session of one useless to the other."""
        return [
            name for name in ("dtype", "weights", "tokenizer") if getattr(self, name) != getattr(other, name)
        ]


class Layer(_Part):
    """What a model asked of an attention layer: as in :class:`sfi_agent.contracts.LayerSpec`."""

    scaling: float
    softcap: float | None = None
    window: int | None = None


class Segment(_Part):
    """A file with the keys and values of positions from ``first`` on, used up to ``stop``."""

    file: str
    first: int
    stop: int


class StoredSelector(_Part):
    """A selector: its name and settings as in the policy, and its state."""

    name: str
    settings: dict[str, Any]
    state: Any = None


class Manifest(_Part):
    """A stored session, but for the tensors.

    Attributes:
        id: of the session.
        turns: turns begun when it was saved.
        tokens: tokens of the conversation.
        saved: when, ISO 8601, UTC.
        version: of sfi-agent.
        model: which model the KV is of.
        policy: settings of the last turn; None before the first.
        length, exact, stretched: as in :class:`sfi_agent.runtime.kv.KVCache`.
        layers: by layer index.
        query_rows: as in :class:`sfi_agent.runtime.queries.RecentQueries`.
        selector: the last turn's, or None.
        indexes: state of each layer's index.
        notes: what callers keep with it.
        lost: what could not be stored.
        segments: the KV, in order of positions.
        state: name of the file with all other tensors.
        files: every file, by name.
    """

    id: str
    turns: int
    tokens: int
    saved: str
    version: str
    model: ModelIdentity
    policy: dict[str, Any] | None
    length: int
    exact: int
    stretched: bool
    layers: dict[int, Layer]
    query_rows: int
    selector: StoredSelector | None
    indexes: dict[int, Any]
    notes: dict[str, Any]
    lost: str
    segments: tuple[Segment, ...]
    state: str
    files: dict[str, FileRecord]

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if {self.state, *(segment.file for segment in self.segments)} != set(self.files):
            raise ValueError("its files are not those it uses")
        if any(not TENSOR_FILE.fullmatch(name) for name in self.files):
            raise ValueError("a file has a name that no session's file has")
        stop = 0
        for segment in self.segments:
            if segment.first != stop or segment.stop <= stop:
                raise ValueError("its segments do not follow each other")
            stop = segment.stop
        if stop != (self.length if self.layers else 0):
            raise ValueError("its segments do not cover its length")
        return self

    @property
    def stored(self) -> int:
        """Bytes of the files."""
        return sum(record.bytes for record in self.files.values())

    def encode(self) -> bytes:
        """The manifest's file: the body, and its SHA-256 together with the format's number."""
        body = self.model_dump(mode="json")
        return _dump({"format": FORMAT, "sha256": _digest(FORMAT, body), "body": body}) + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> Manifest:
        """Read what ``encode`` gave.

        Raises:
            SessionMismatchError: another version of the format.
            SessionCorruptError: anything else than what ``encode`` gave.
        """
        try:
            parsed = json.loads(data)
            number, body, digest = parsed["format"], parsed["body"], parsed["sha256"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise SessionCorruptError(f"{NAME} was cut or changed since it was written") from None
        if _digest(number, body) != digest:
            raise SessionCorruptError(f"{NAME} was changed since it was written")
        if number != FORMAT:
            raise SessionMismatchError(f"it has format {number}, and this sfi-agent reads format {FORMAT}")
        try:
            manifest = cls.model_validate(body)
        except ValidationError as error:
            raise SessionCorruptError(f"{NAME} is not a manifest: {one_line(error)}") from None
        if manifest.encode() != data:
            raise SessionCorruptError(f"{NAME} was changed since it was written")
        return manifest

    def write(self, folder: Path) -> None:
        """Make this the folder's manifest; OSError if that cannot be."""
        replace_file(folder / NAME, self.encode())


def read_manifest(folder: Path) -> Manifest | None:
    """The folder's manifest, or None if it has none; raises as :meth:`Manifest.decode`."""
    try:
        return Manifest.decode((folder / NAME).read_bytes())
    except FileNotFoundError:
        return None


def _digest(number: int, body: Any) -> str:
    return hashlib.sha256(_dump([number, body])).hexdigest()


def _dump(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode("ascii")
