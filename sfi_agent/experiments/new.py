"""A new page from the template."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from sfi_agent.errors import SettingError
from sfi_agent.writing import write

NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def new_page(name: str, folder: Path) -> Path:
    """Write ``folder/NAME.md``, with everything explained in it.

    Raises:
        SettingError: the name does not suit a file, or the page exists.
    """
    if not NAME.fullmatch(name):
        raise SettingError(
            f"a page's name is lower-case words joined by hyphens, such as my-question (given {name!r})"
        )
    path = folder / f"{name}.md"
    if path.exists():
        raise SettingError(f"{path} exists; choose another name, or delete it first")
    template = (files("sfi_agent.experiments") / "template.md").read_text(encoding="utf-8")
    title = name.replace("-", " ").capitalize()
    folder.mkdir(parents=True, exist_ok=True)
    write(path, template.replace("# NAME", f"# {title}").replace("PAGE", path.as_posix()))
    return path
