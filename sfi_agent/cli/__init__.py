"""The ``sfi-agent`` command."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point: run the command; a refusal or Ctrl-C is one line on stderr and a non-zero exit."""
    try:
        from sfi_agent.cli.app import run  # here, so that Ctrl-C may come while it loads

        sys.exit(run())
    except KeyboardInterrupt:
        print("interrupted: nothing is left half done, run the command again", file=sys.stderr)
        sys.exit(130)
