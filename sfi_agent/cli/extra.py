"""Commands that other packages bring: entry points of group ``sfi_agent.commands``, one a command.

Each names a function as typer wants it. Its module is imported whenever ``sfi-agent`` starts, so what it
needs should be imported in the function.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

import typer

from sfi_agent.errors import PluginError

GROUP = "sfi_agent.commands"


def add_to(app: typer.Typer) -> None:
    """Add every such command; one that cannot be imported says so when it is called."""
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        app.command(point.name)(_command(point))


def _command(point: EntryPoint) -> Callable[..., None]:
    try:
        found: Callable[..., None] = point.load()
    except Exception as error:  # whatever a package does, the other commands work
        return _broken(point, error)
    return found


def _broken(point: EntryPoint, error: Exception) -> Callable[..., None]:
    reason = " ".join(str(error).split()) or type(error).__name__

    def command() -> None:
        raise PluginError(f"command {point.name!r} of {point.value!r} cannot be used: {reason}")

    command.__doc__ = f"Not usable here: {reason}"
    return command
