"""A tiny model with room for a tool's declaration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from sfi_agent import Runtime
from sfi_agent.evaluate.beside import DenseBeside


@pytest.fixture(scope="session")
def wide(tiny: Any) -> Iterator[Runtime]:
    """A runtime on a tiny Llama whose window is 4,096 tokens, for tests that leave no trace on it."""
    with tiny.runtime(max_position_embeddings=4096) as runtime:
        yield runtime


@pytest.fixture
def beside(wide: Runtime) -> DenseBeside:
    """Dense answers of this test's own."""
    return DenseBeside(wide)
