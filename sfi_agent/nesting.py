"""JSON that is too deep: llguidance reads no more levels than this, and Python itself not many more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sfi_agent.errors import SettingError

LEVELS = 128
"""Objects and lists in each other."""


def refuse_deep(value: Any, name: str = "") -> None:
    """Raise SettingError where a value has more levels; the message begins with ``name``."""
    level = [value]
    for _ in range(LEVELS + 1):
        inner: list[Iterable[Any]] = [each.values() for each in level if isinstance(each, Mapping)]
        inner += [each for each in level if isinstance(each, list | tuple)]
        if not inner:
            return
        level = [each for values in inner for each in values]
    raise SettingError(
        f"{name}objects and lists may be {LEVELS} levels deep; make the schema flatter, or use $ref"
    )
