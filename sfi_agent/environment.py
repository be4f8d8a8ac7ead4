"""The environment variables that sfi-agent reads, all of them here and each once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path


@dataclass(frozen=True)
class Environment:
    """Settings of the machine rather than of a turn.

    Attributes:
        cache: ``SFI_CACHE``, where converted models are kept; default ``~/.cache/sfi-agent``.
        disabled_plugins: ``SFI_DISABLE_PLUGINS``, plugin names separated by commas.
        commit: ``SFI_COMMIT``, what results state where the tree travels without its history; or None.
    """

    cache: Path
    disabled_plugins: frozenset[str]
    commit: str | None = None


@lru_cache(maxsize=1)
def environment() -> Environment:
    """The settings as they were at first use."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sfi-agent"
    names = os.environ.get("SFI_DISABLE_PLUGINS", "").split(",")
    return Environment(
        cache=Path(os.environ.get("SFI_CACHE") or default).expanduser(),
        disabled_plugins=frozenset(name.strip() for name in names if name.strip()),
        commit=os.environ.get("SFI_COMMIT") or None,
    )
