"""The commands of ``sfi-agent``, put together."""

from __future__ import annotations

import logging
import sys
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from sfi_agent.cli import (
    chat,
    compare,
    doctor,
    evaluate,
    experiment,
    extra,
    generate,
    models,
    plugins,
    sessions,
    suite,
)
from sfi_agent.errors import SFIError

INTERRUPTED = 130
"""What typer makes of Ctrl-C."""
WHERE = "`python -X dev -m sfi_agent ...` shows where"
_USAGE_ERROR: type[Exception] = typer.BadParameter.__bases__[0]
"""click's; some versions of typer carry a click of their own."""

app = typer.Typer(
    name="sfi-agent",
    help="Slow-fast inference for long LLM sessions.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("generate")(generate.generate)
app.command("chat")(chat.chat)
app.command("compare")(compare.compare)
app.command("plugins")(plugins.plugins)
app.command("doctor")(doctor.doctor)
evaluate.app.command("suite")(suite.suite)
app.add_typer(evaluate.app, name="eval")
app.add_typer(experiment.app, name="experiment")
app.add_typer(models.app, name="models")
app.add_typer(sessions.app, name="sessions")
extra.add_to(app)
# What a session could not store is a command's error, in one line; `bus` lets its log be heard all the same.
logging.getLogger("sfi_agent.store").addHandler(logging.NullHandler())


def run() -> int:
    """Run the command and return its exit status; an error of ours, a plugin's or of usage is one line.

    Raises:
        KeyboardInterrupt: Ctrl-C.
    """
    try:
        status = app(prog_name="sfi-agent", standalone_mode=False)
    except SFIError as error:
        return _refuse("; ".join([str(error), *_notes(error)]), 1)
    except _USAGE_ERROR as error:
        return _misused(error)
    except OSError as error:  # stdout on a full disk, say
        return _refuse(f"the system would not read or write: {error}", 1)
    except typer.Abort:
        raise KeyboardInterrupt from None
    except Exception as error:
        if _out_of_memory(error):
            return _refuse(
                f"out of memory: {error}; use a shorter context, a smaller model, or --dtype bfloat16", 1
            )
        if not _notes(error) or sys.flags.dev_mode:
            raise
        return _refuse("; ".join([f"{type(error).__name__}: {error}", *_notes(error), WHERE]), 1)
    if status == INTERRUPTED:
        raise KeyboardInterrupt
    return int(status or 0)


def _misused(error: Any) -> int:
    """Say what is wrong with the command line; where no command was named, typer has shown the help."""
    message = error.format_message().strip()
    if "\n" in message:
        typer.echo(message, err=True)
    elif message:
        command = error.ctx.command_path if error.ctx else "sfi-agent"
        _refuse(f"{message.rstrip('.')}; see {command} --help", 2)
    return 2


def _notes(error: Exception) -> list[str]:
    """Which plugin raised it, if one did."""
    return getattr(error, "__notes__", [])


def _out_of_memory(error: Exception) -> bool:
    """Python's own, or torch's: on a GPU a type of its own, on a CPU told by its text alone."""
    named = type(error).__name__ in ("MemoryError", "OutOfMemoryError")
    return named or "can't allocate memory" in str(error)


def _refuse(message: str, status: int) -> int:
    line = escape(" ".join(message.split()))
    Console(stderr=True).print(f"[red]error:[/] {line}", soft_wrap=True, highlight=False)
    return status
