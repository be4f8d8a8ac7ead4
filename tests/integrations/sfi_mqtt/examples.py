"""One event of every kind."""

from __future__ import annotations

import dataclasses

from sfi_agent import events
from sfi_agent.events import Event, SlowStep

FILLED = {"str": "text", "int": 7, "float": 0.25, "bool": True}


def every_event() -> list[Event]:
    kinds = [kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, Event)]
    return [_filled(kind) for kind in kinds if kind is not Event]


def step(number: int) -> SlowStep:
    return SlowStep(session="s", turn=1, position=number, tokens=1)


def _filled(kind: type[Event]) -> Event:
    return kind(**{field.name: FILLED[str(field.type)] for field in dataclasses.fields(kind)})
