"""The ``sfi-agent`` command.

``sfi-agent COMMAND --help`` says what a command takes. An option without a default changes nothing where it
is left out.

Answers and results go to stdout, all else to stderr. The exit status is 0, 1 after an error, which is one
line, 2 where the command line itself is wrong, 130 after Ctrl-C and 143 after SIGTERM.
"""

from __future__ import annotations

import signal
import sys
from io import TextIOWrapper

STOPPED = "what sessions have so far is kept; the command can be run again"


class Terminated(SystemExit):
    """SIGTERM came: unlike Ctrl-C it ends the command even where that stops an answer alone."""


def main() -> None:
    """Entry point: run the command; a refusal, Ctrl-C or SIGTERM is one line on stderr, its exit not 0."""
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        from sfi_agent.cli.app import run  # here, so that Ctrl-C may come while it loads

        _write_any_text()
        sys.exit(run())
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's own ending shows a traceback of another one
        print(f"interrupted: {STOPPED}", file=sys.stderr)
        sys.exit(130)
    except Terminated:
        print(f"terminated: {STOPPED}", file=sys.stderr)
        sys.exit(143)
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, _: object) -> None:
    """End as after an error, so that what is open is closed; a second SIGTERM ends the process as usual."""
    signal.signal(number, signal.SIG_DFL)
    raise Terminated


def _write_any_text() -> None:
    """An answer may hold any character: files and pipes get UTF-8, a terminal what it can show.

    In UTF-8 what it cannot hold, a byte of a file's name say, is escaped as JSON does it.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and stream.isatty():
            stream.reconfigure(errors="replace")
        elif isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
