"""The ``sfi-agent`` command."""

from __future__ import annotations


def main() -> None:
    """Entry point: run the command, print a refusal as one line, exit non-zero."""
    from sfi_agent.cli.app import run

    run()
