"""``sfi-agent plugins``: what is registered, by whom, and what is not usable here, and why."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from sfi_agent.cli import options
from sfi_agent.cli.options import out
from sfi_agent.errors import PluginError

if TYPE_CHECKING:
    import torch
    from rich.console import RenderableType

    from sfi_agent.registry import Registry

KINDS = {"policy": "policies", "selector": "selectors", "boundary": "boundary detectors", "kernel": "kernels"}
LONGEST = 40
"""Characters of a value in the list."""


def plugins(device: options.Device = "auto", json: options.Json = False) -> None:
    """List policies, selectors, boundary detectors and kernels with their settings, and broken plugins.

    A policy's settings are those that differ from the default; --json has values whole that are long.
    """
    found = _collect(device)
    if json:
        options.print_json(found)
        return
    from rich.markup import escape

    width = max((len(entry["name"]) for kind in KINDS for entry in found[kind]), default=0)
    for kind, heading in KINDS.items():
        for plugin, entries in groupby(found[kind], itemgetter("plugin")):
            out.print(f"[bold]{heading}[/] of {escape(plugin)}", highlight=False)
            out.print(_listed(entries, width, found["auto_kernel"] if kind == "kernel" else None))
    for problem in found["problems"]:
        reason = escape(f"{problem['plugin']}: {problem['reason']}")
        out.print(f"[red]not in use:[/] {reason}", highlight=False, soft_wrap=True)
    if found["disabled"]:
        out.print(f"disabled: {', '.join(found['disabled'])}", highlight=False)


def _listed(entries: Iterable[dict[str, Any]], width: int, auto: str | None) -> RenderableType:
    """Names, and beside them what each does, whether it can be used, and its settings."""
    from rich.markup import escape
    from rich.padding import Padding
    from rich.table import Table

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=width, overflow="fold")
    table.add_column(overflow="fold")
    for entry in entries:
        lines = [escape(entry["summary"])]
        if entry["name"] == auto:
            lines[0] += " [green](auto)[/]"
        if reason := entry["unavailable"]:
            lines.append(f"[yellow]unavailable: {escape(reason)}[/]")
        if entry["settings"]:
            settings = ", ".join(f"{name}={_short(value)}" for name, value in entry["settings"].items())
            lines.append(f"[dim]{escape(settings)}[/]")
        table.add_row(entry["name"], "\n".join(filter(None, lines)))
    return Padding(table, (0, 0, 1, 2))


def _short(value: Any) -> str:
    """A value on a line: of a long one its beginning, ``--json`` has all of it."""
    text = str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _collect(device: str) -> dict[str, Any]:
    from sfi_agent.models.load import device_of
    from sfi_agent.registry import HOOKS, default_registry

    registry, place = default_registry(), device_of(device)
    found: dict[str, Any] = {
        kind: [
            {
                "name": entry.name,
                "plugin": entry.plugin,
                "settings": _settings(entry.factory),
                "summary": _summary(entry.factory),
                "unavailable": registry.kernel_problem(entry.name, place) if kind == "kernel" else None,
            }
            for entry in registry.entries(kind).values()
        ]
        for kind in HOOKS
    }
    for entry in found["policy"]:
        entry.update(_policy(registry, entry["name"]))
    found["problems"] = [dataclasses.asdict(problem) for problem in registry.problems]
    found["disabled"] = sorted(registry.disabled)
    found["auto_kernel"] = _auto_kernel(registry, place)
    return found


def _auto_kernel(registry: Registry, device: torch.device) -> str | None:
    try:
        return registry.auto_kernel(device)
    except PluginError:  # the list says of each kernel why it is not it
        return None


def _policy(registry: Registry, name: str) -> dict[str, Any]:
    """What a policy sets otherwise than the default, or why it cannot be made."""
    try:
        return {"settings": registry.policy(name).model_dump(mode="json", exclude_defaults=True)}
    except Exception as error:  # whatever a plugin's policy does, the others are listed
        return {"unavailable": " ".join(str(error).split()) or type(error).__name__}


def _summary(factory: Any) -> str:
    """The first line of the docstring; that of a dataclass without one is its signature, and left out."""
    line = (inspect.getdoc(factory) or "").partition("\n")[0].replace("``", "`")
    return "" if line.startswith(f"{getattr(factory, '__name__', '')}(") else line


def _settings(factory: Any) -> dict[str, Any]:
    if not dataclasses.is_dataclass(factory):
        return {}
    return {
        field.name: field.default if field.default is not dataclasses.MISSING else "..."
        for field in dataclasses.fields(factory)
        if field.init
    }
