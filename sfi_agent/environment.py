"""The environment variables that sfi-agent reads, each once; integrations read their own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from sfi_agent.errors import SettingError


@dataclass(frozen=True)
class Environment:
    """Settings of the machine rather than of a turn, read once, at first use.

    What is fetched from the Hugging Face hub is kept and looked for where that library's own variables say
    (``HF_HOME``, ``HF_TOKEN``, ``HF_HUB_OFFLINE``).

    Attributes:
        cache_folder: ``SFI_CACHE``: folder in which embedded models are kept once they are converted; default
            ``sfi-agent`` in ``$XDG_CACHE_HOME``, or in ``~/.cache`` where that is not set.
        disabled_plugins: ``SFI_DISABLE_PLUGINS``: names of plugins to leave out, separated by commas, as
            ``sfi-agent plugins`` lists them.
        commit: ``SFI_COMMIT``: the commit that results of experiments state, where the tree has come without
            its history.
    """

    cache_folder: Path
    disabled_plugins: frozenset[str]
    commit: str | None = None

    @property
    def cache(self) -> Path:
        """``cache_folder`` as a whole path; not before it is used, for a user need have no home folder.

        Raises:
            SettingError: it is below a home folder that nobody knows.
        """
        try:
            return expanded(self.cache_folder)
        except SettingError as error:
            raise SettingError(f"{error}: set SFI_CACHE to one") from None


def expanded(path: str | Path) -> Path:
    """The path with its ``~`` put in.

    Raises:
        SettingError: it names the home folder of a user who has none.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise SettingError(
            f"the home folder in {str(path)!r} is not known; name a folder without ~"
        ) from None


@lru_cache(maxsize=1)
def environment() -> Environment:
    """The settings as they were at first use."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "sfi-agent"
    names = os.environ.get("SFI_DISABLE_PLUGINS", "").split(",")
    return Environment(
        cache_folder=Path(os.environ.get("SFI_CACHE") or default),
        disabled_plugins=frozenset(name.strip() for name in names if name.strip()),
        commit=os.environ.get("SFI_COMMIT") or None,
    )
