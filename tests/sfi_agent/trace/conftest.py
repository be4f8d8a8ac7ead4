"""Pages of made-up and of real turns, written once and opened in a browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from sfi_agent.trace import Recorder, Trace, write
from tests.sfi_agent.trace.examples import long, nasty


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the pages."""
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="session")
def long_page(pages: Path) -> Path:
    """1,000 steps after 8,000 tokens."""
    write(long(), pages / "long.html")
    return pages / "long.html"


@pytest.fixture(scope="session")
def nasty_page(pages: Path) -> Path:
    write(nasty(), pages / "nasty.html")
    return pages / "nasty.html"


@pytest.fixture(scope="session")
def recorded(tiny, shared) -> Trace:
    """A session of two turns, in modes ``sfi`` and ``verified``."""
    recorder = Recorder("tiny")
    with tiny.runtime() as runtime, runtime.observers.heard_by(recorder):
        for mode, tokens in [("sfi", 70), ("verified", 150)]:
            policy = tiny.policy(mode, adaptive_draft=False, max_draft=5, boundaries=("punctuation",))
            runtime.generate(
                tiny.prompt(tokens), policy=policy, sampling=tiny.sampling(40), session="two turns"
            )
    return recorder.trace


@pytest.fixture(scope="session")
def recorded_page(pages: Path, recorded: Trace) -> Path:
    write(recorded, pages / "recorded.html")
    return pages / "recorded.html"
