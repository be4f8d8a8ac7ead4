"""A disk that is full."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sfi_agent.errors import SettingError


@contextmanager
def full() -> Iterator[None]:
    """The system takes 100 bytes of each file and no more, as a disk does that is full."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def refused(path: Path) -> pytest.RaisesExc[SettingError]:
    """What is raised where ``path`` is to be written there."""
    return pytest.raises(SettingError, match=re.escape(f"cannot write {path}: File too large; make room"))
