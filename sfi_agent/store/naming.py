"""The folder of a session: named after its id, and inside the store whatever the id."""

from __future__ import annotations

import hashlib
import re

READABLE = 24
"""Characters of an id that its folder's name shows."""
DIGEST = 20
"""Hexadecimal digits that tell apart what shows the same."""
PATTERN = re.compile(rf"[a-z0-9-]{{0,{READABLE}}}-[0-9a-f]{{{DIGEST}}}")
"""Every name that :func:`folder_name` gives."""


def folder_name(id: str) -> str:
    """``agent-7-0c6f...`` for ``Agent/7``: lower-case ASCII letters, digits and hyphens only.

    Names differ where ids do, on file systems that ignore case, too.
    """
    shown = re.sub(r"[^a-z0-9]+", "-", id.lower()).strip("-")[:READABLE].strip("-")
    digest = hashlib.sha256(id.encode("utf-8", "surrogatepass")).hexdigest()[:DIGEST]
    return f"{shown}-{digest}"
