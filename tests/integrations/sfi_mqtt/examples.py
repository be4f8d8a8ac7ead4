"""One event of every kind."""

from __future__ import annotations

import dataclasses
from typing import Any

from sfi_agent import details, events
from sfi_agent.details import Detail, Memory, Step, Token
from sfi_agent.events import Event, SlowStep

FILLED = {
    "str": "text", "int": 7, "float": 0.25, "bool": True, "Mark": "fast", "float | None": None,
    "tuple[str, ...]": ("a", "b"), "dict[str, Any]": {"mode": "sfi"},
}  # fmt: skip


def every_event() -> list[Event]:
    homes = [*vars(events).values(), *vars(details).values()]
    kinds = [kind for kind in homes if isinstance(kind, type) and issubclass(kind, Event)]
    return [_filled(kind) for kind in kinds if kind not in (Event, Detail)]


def step(number: int) -> SlowStep:
    return SlowStep(session="s", turn=1, position=number, tokens=1)


def _filled(kind: type[Any]) -> Any:
    parts = {f"tuple[{part.__name__}, ...]": part for part in (Step, Token, Memory)}
    known = {str(field.type): field for field in dataclasses.fields(kind)}
    filled = {name: (_filled(part),) for name, part in parts.items() if name in known} | FILLED
    return kind(**{field.name: filled[str(field.type)] for field in dataclasses.fields(kind)})
