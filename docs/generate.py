"""Write the reference pages that repeat what the code says; ``--check`` only compares them.

Usage: python docs/generate.py [--check]
"""

from __future__ import annotations

import sys
from pathlib import Path

from generating import command_line, contracts, langchain, messages, python, settings

HERE = Path(__file__).parent


def pages() -> dict[Path, str]:
    """Every generated page and what it should say."""
    reference = HERE / "reference"
    return {
        reference / "python.md": python.python(),
        reference / "langchain.md": langchain.langchain(),
        reference / "command-line.md": command_line.command_line(),
        reference / "hooks.md": contracts.hooks(),
        reference / "settings.md": settings.settings(),
        reference / "errors.md": contracts.error_page(),
        reference / "events.md": contracts.event_page(),
        reference / "event-messages.json": messages.event_messages(),
        reference / "bus-messages.json": messages.bus_messages(),
        reference / "models.md": settings.models(),
    }


def main(arguments: list[str]) -> int:
    """Write what changed, or with ``--check`` name it and return 1."""
    stale = {
        path: text
        for path, text in pages().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    }
    for path, text in stale.items():
        print(f"{'stale' if '--check' in arguments else 'wrote'}: {path.relative_to(HERE.parent)}")
        if "--check" not in arguments:
            path.write_text(text, encoding="utf-8")
    if stale and "--check" in arguments:
        print("run: make docs")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
