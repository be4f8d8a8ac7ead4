"""The page of the ``sfi-agent`` command: typer's own tree of it, and the environment."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import typer

from generating.docstrings import attributes, markdown, page, prose
from sfi_agent import cli
from sfi_agent.cli.app import app
from sfi_agent.environment import Environment
from sfi_mqtt.broker import Broker

OURS = ("sfi_agent", "sfi_mqtt")
"""Other packages that are installed may bring commands, too."""
VALUES = {"str": " TEXT", "int": " INTEGER", "float": " FLOAT", "Path": " PATH", "bool": ""}
"""What stands behind an option, by its type; a flag has nothing there."""
READ = (Environment, Broker)
"""Where the environment is read."""


def command_line() -> str:
    """Every command with its options, and every environment variable."""
    found = list(commands())
    rows = ["| command | what it does |", "| --- | --- |"]
    rows += [f"| [`{path}`](#{_anchor(path)}) | {_help(command)[0]} |" for path, command in found]
    parts = [prose(cli), "\n".join(rows)]
    for path, command in found:
        parts += [f"## `{path}`", *_help(command), _options(command)]
    return page("Command line", *parts, "## Environment variables", prose(Environment), _environment())


def commands() -> Iterator[tuple[str, Any]]:
    """Every command of ours, with all of its name."""
    return _commands(typer.main.get_command(app), "sfi-agent")


def _commands(group: Any, path: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{path} {name}")
        elif command.callback.__module__.partition(".")[0] in OURS:
            yield f"{path} {name}", command


def _help(command: Any) -> list[str]:
    """The paragraphs of a command's help."""
    return [markdown(part.replace("\n", " ")) for part in command.help.split("\n\n")]


def _options(command: Any) -> str:
    """A table of what a command takes: arguments, what it needs, and the rest."""
    declared = get_type_hints(command.callback, include_extras=True)
    rows = ["| option | default | meaning |", "| --- | --- | --- |"]
    for each in sorted((each for each in command.params if each.name != "help"), key=_rank):
        kind, told = get_args(declared[each.name])
        rows.append(f"| {_form(each, kind)} | {_default(each)} | {_meaning(told)} |")
    return "\n".join(rows) if len(rows) > 2 else ""


def _rank(parameter: Any) -> tuple[bool, bool]:
    return parameter.param_type_name == "option", not parameter.required


def _form(parameter: Any, kind: Any) -> str:
    """As it is typed: ``--budget TEXT``, ``--repair`` or ``--no-repair``, ``ID``."""
    if parameter.param_type_name == "argument":
        return f"`{parameter.name.upper()}{' ...' if parameter.nargs < 0 else ''}`"
    (value,) = (word for name, word in VALUES.items() if name in str(kind))
    return ", ".join(f"`{form}{value}`" for form in (*parameter.opts, *parameter.secondary_opts))


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    return "" if parameter.default is None or parameter.default is False else f"`{parameter.default}`"


def _meaning(told: Any) -> str:
    """The help, and the bounds of a number."""
    bounds = {"at least": told.min, "at most": told.max}
    limits = ", ".join(f"{said} {bound:g}" for said, bound in bounds.items() if bound is not None)
    return markdown(f"{told.help} {limits.capitalize()}{'.' * bool(limits)}".strip()).replace("|", r"\|")


def _environment() -> str:
    rows = ["| variable | meaning |", "| --- | --- |"]
    for kind in READ:
        for _, meaning in attributes(kind):
            if named := re.match(r"(`[A-Z_]+`): (.*)", meaning):
                rows.append(f"| {named[1]} | {named[2]} |")
    return "\n".join(rows)


def _anchor(path: str) -> str:
    return path.replace(" ", "-")
