"""The records of a page, in a JSON file beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, ValidationError

from sfi_agent.environment import environment
from sfi_agent.errors import SettingError
from sfi_agent.policy import Policy, one_line
from sfi_agent.writing import write

FORMAT = 1
DIGITS = 6
"""Significant digits that results keep."""


@dataclass(frozen=True)
class Question:
    """What a page asks of one measurement: everything that determines it and is known without a model.

    Attributes:
        measure, version: kind of measurement, and of which version its code is.
        model, dtype: as the page names them.
        workload, seed: text to read; ``text`` is the digest of a file of the page's own, or empty.
        context, decode: sizes in tokens.
        samples: of each retrieval task at each length.
        policy: its settings, all of them.
        plugin: digest of the page's own code that the policy uses, or empty.
        temperature: at which answers are drawn; 0: greedily.
    """

    measure: str
    version: int
    model: str
    dtype: str
    workload: str
    seed: int
    text: str
    context: int
    decode: int
    policy: dict[str, Any]
    plugin: str
    samples: int = 1
    temperature: float = 0.0

    @cached_property
    def plain(self) -> dict[str, Any]:
        """As JSON gives it back: lists for tuples."""
        asked: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return asked


class Record(BaseModel):
    """One measurement.

    Attributes:
        key: digest of ``asked``, ``weights`` and ``tokens``.
        asked: as in :class:`Question`.
        weights: fingerprint of the model that ran.
        tokens: digest of the tokens that it read.
        values: what was measured.
        seconds: that it took.
        date, commit, device, versions: as in :class:`sfi_agent.experiments.provenance.Provenance`.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    key: str
    asked: dict[str, Any]
    weights: str
    tokens: str
    values: dict[str, Any]
    seconds: float
    date: str
    commit: str
    device: str
    versions: str

    @classmethod
    def of(cls, ask: Question, weights: str, tokens: str, **rest: Any) -> Record:
        """A record with its key; ``values`` are rounded to ``DIGITS``."""
        rest["values"] = _rounded(rest["values"])
        key = _key(ask.plain, weights, tokens)
        return cls(key=key, asked=ask.plain, weights=weights, tokens=tokens, **rest)

    def answers(self, ask: Question) -> bool:
        """Whether this was measured as ``ask`` says.

        What did not exist when it was measured must have its default value: a setting of the policy,
        samples, temperature.
        """
        policy = {**_DEFAULTS, **self.asked.get("policy", {})}
        new = {"samples": Question.samples, "temperature": Question.temperature}
        return {**new, **self.asked, "policy": policy} == ask.plain


class Results:
    """The results file of a page.

    Args:
        path: of the JSON file.
        records: in it.
    """

    def __init__(self, path: Path, records: Iterable[Record] = ()) -> None:
        self.path, self.records = path, list(records)

    @classmethod
    def beside(cls, page: Path) -> Results:
        """Of the page at ``page``; empty where it has not been run.

        Raises:
            SettingError: the file is not one that a run wrote.
        """
        return cls.at(page.with_suffix(".json"))

    @classmethod
    def at(cls, path: Path) -> Results:
        """The file at ``path``, as :meth:`beside`."""
        if not path.exists():
            return cls(path)
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["format"] != FORMAT:
                raise SettingError(
                    f"{path} has format {stored['format']!r}, this version reads {FORMAT}; {_AGAIN}"
                )
            records = [Record.model_validate(record) for record in stored["records"]]
        except ValidationError as error:
            raise SettingError(f"{path}: {one_line(error)}; {_AGAIN}") from None
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, SettingError):
                raise
            raise SettingError(
                f"{path} is no results file ({type(error).__name__}: {error}); {_AGAIN}"
            ) from None
        for record in records:
            if record.key != _key(record.asked, record.weights, record.tokens):
                raise SettingError(f"{path}: record {record.key} was changed after it was measured; {_AGAIN}")
        return cls(path, records)

    def find(self, ask: Question, *, weights: str | None = None, tokens: str | None = None) -> Record | None:
        """The record that answers ``ask``, of these weights and tokens where they are given."""
        for record in self.records:
            same = weights in (None, record.weights) and tokens in (None, record.tokens)
            if same and record.answers(ask):
                return record
        return None

    def put(self, record: Record, ask: Question) -> None:
        """Add a record in the place of whatever answered the same, and write the file."""
        with self._changing():
            self.records = [old for old in self.records if not old.answers(ask)] + [record]

    def unasked(self, asks: Sequence[Question]) -> list[Record]:
        """Records that answer none of ``asks``."""
        return [record for record in self.records if not any(record.answers(ask) for ask in asks)]

    def drop(self, records: Sequence[Record]) -> None:
        """Forget ``records``, and write the file."""
        with self._changing():
            self.records = [record for record in self.records if record not in records]

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Change the records as they are on disk now: another process may run part of the same page."""
        with FileLock(_lock_of(self.path)):
            self.records = Results.at(self.path).records
            yield
            self._save()

    def _save(self) -> None:
        lines = ",\n".join(
            json.dumps(record.model_dump(), ensure_ascii=False, allow_nan=False) for record in self.records
        )
        write(self.path, f'{{"format": {FORMAT}, "records": [\n{lines}\n]}}\n')


_DEFAULTS = Policy().model_dump(mode="json")
_AGAIN = "delete it and run the page again"


def _lock_of(path: Path) -> Path:
    """A lock file for the results at ``path``, out of the way of what is committed."""
    folder = environment().cache / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}.lock"


def _key(asked: dict[str, Any], weights: str, tokens: str) -> str:
    text = json.dumps([asked, weights, tokens], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(inner) for inner in value]
    return value
