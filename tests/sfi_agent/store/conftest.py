"""Runtimes on a store of the test's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from sfi_agent import Registry, Runtime
from sfi_agent.hookspecs import hookimpl
from sfi_agent.store import SessionStore


@dataclass
class Listening:
    """Keeps every event of a kind."""

    name = "listening"
    heard: list[Any] = field(default_factory=list)

    @hookimpl
    def sfi_on_event(self, event):
        self.heard.append(event)

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.heard if isinstance(event, kind)]


@pytest.fixture
def listening():
    return Listening()


@pytest.fixture
def opened(tiny, tmp_path, listening):
    """``opened()``: a runtime on the test's store; closed at the end, if the test did not."""
    made: list[Runtime] = []

    def get(plugins=(), **changes) -> Runtime:
        registry = Registry([listening, *plugins])
        store = tmp_path / "s"
        made.append(
            Runtime.load(tiny.model(**changes), tokenizer=tiny.tokenizer, store=store, registry=registry)
        )
        return made[-1]

    yield get
    for runtime in made:
        runtime.close()


@pytest.fixture
def turn(tiny):
    def run(runtime, prompt=None, session="a", tokens=5, mode="dense"):
        return runtime.generate(
            prompt or tiny.prompt(40),
            policy=tiny.policy(mode),
            sampling=tiny.sampling(tokens),
            session=session,
        )

    return run


@pytest.fixture
def store(tmp_path):
    return SessionStore(tmp_path / "s")
