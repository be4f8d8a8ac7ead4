"""The commands of ``sfi-agent``, put together."""

from __future__ import annotations

import sys

import typer
from rich.console import Console

from sfi_agent.cli import chat, compare, doctor, evaluate, experiment, generate, models, plugins, suite
from sfi_agent.errors import SFIError

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


def run() -> None:
    """Run; an error of ours is one line on stderr and exit 1, Ctrl-C is exit 130."""
    try:
        app()
    except SFIError as error:
        Console(stderr=True).print(f"[red]error:[/] {_escape(error)}", soft_wrap=True, highlight=False)
        sys.exit(1)
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted")
        sys.exit(130)


def _escape(error: SFIError) -> str:
    from rich.markup import escape

    return escape(" ".join(str(error).split()))
