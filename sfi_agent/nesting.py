"""Levels of JSON, and how many are too many: llguidance reads no more, and Python itself not many more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from sfi_agent.errors import SettingError

LEVELS = 128
"""Objects and lists in each other."""


def levels(value: Any) -> Iterator[list[Any]]:
    """All that is at each level of a value, the value itself first."""
    level = [value]
    while level:
        yield level
        inner: list[Iterable[Any]] = [each.values() for each in level if isinstance(each, Mapping)]
        inner += [each for each in level if isinstance(each, list | tuple)]
        level = [each for values in inner for each in values]


def refuse_deep(value: Any, name: str = "") -> None:
    """Raise SettingError where a value has more levels; the message begins with ``name``."""
    deepest = next(islice(levels(value), LEVELS, None), [])
    if any(isinstance(each, Mapping | list | tuple) for each in deepest):
        raise SettingError(
            f"{name}objects and lists may be {LEVELS} levels deep; make the schema flatter, or use $ref"
        )
