"""Files that are whole: an interruption or a full disk leaves what was there before."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from sfi_agent.errors import SettingError


def write(path: Path, text: str) -> None:
    """Put ``text`` at ``path`` in one step; where that is a link, at what it names.

    Raises:
        SettingError: it cannot be written; what was there is there still, and nothing beside it.
    """
    target = path.resolve()
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        if target.exists():
            shutil.copymode(target, beside)
        beside.replace(target)
    except OSError as error:
        raise SettingError(
            f"cannot write {path}: {error.strerror or error}; make room there, or use a folder of yours"
        ) from None
    finally:
        with suppress(OSError):  # it has taken its place, or could not be made
            beside.unlink()
