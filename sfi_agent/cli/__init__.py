"""The ``sfi-agent`` command.

``sfi-agent COMMAND --help`` says what a command takes. An option without a default changes nothing where it
is left out.

Answers and results go to stdout, all else to stderr. The exit status is 0, 1 after an error, which is one
line, 2 where the command line itself is wrong, and 130 after Ctrl-C.
"""

from __future__ import annotations

import sys
from io import TextIOWrapper


def main() -> None:
    """Entry point: run the command; a refusal or Ctrl-C is one line on stderr and a non-zero exit."""
    try:
        from sfi_agent.cli.app import run  # here, so that Ctrl-C may come while it loads

        _write_any_text()
        sys.exit(run())
    except KeyboardInterrupt:
        print("interrupted: what sessions have so far is kept; the command can be run again", file=sys.stderr)
        sys.exit(130)


def _write_any_text() -> None:
    """An answer may hold any character: files and pipes get UTF-8, a terminal what it can show.

    In UTF-8 what it cannot hold, a byte of a file's name say, is escaped as JSON does it.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and stream.isatty():
            stream.reconfigure(errors="replace")
        elif isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
