"""``python -m sfi_agent``: the ``sfi-agent`` command."""

from sfi_agent.cli import main

main()
