"""Files that are whole: an interruption or a full disk leaves what was there before."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from sfi_agent.errors import SettingError


def write(path: Path, text: str) -> None:
    """Put ``text`` at ``path`` in one step; where that is a link, at what it names; into a pipe as it comes.

    Raises:
        SettingError: it cannot be written; what was there is there still, and nothing beside it.
    """
    target = path.resolve()
    try:
        if target.exists() and not target.is_file():  # a pipe, a terminal or a device
            target.write_text(text, encoding="utf-8")
        else:
            _replace(target, text)
    except OSError as error:
        raise SettingError(
            f"cannot write {path}: {error.strerror or error}; make room there, or use a folder of yours"
        ) from None


def _replace(target: Path, text: str) -> None:
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        if target.exists():
            shutil.copymode(target, beside)
        beside.replace(target)
    finally:
        with suppress(OSError):  # it has taken its place, or could not be made
            beside.unlink()
