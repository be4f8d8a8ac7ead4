"""``sfi-agent plugins``: what is registered, by whom, and what is not usable here, and why."""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING, Any

from sfi_agent.cli import options
from sfi_agent.cli.options import out
from sfi_agent.errors import PluginError

if TYPE_CHECKING:
    import torch

    from sfi_agent.registry import Registry


def plugins(device: options.Device = "auto", json: options.Json = False) -> None:
    """List policies, selectors, boundary detectors and kernels with their settings, and broken plugins.

    A policy's settings are those that differ from the default.
    """
    found = _collect(device)
    if json:
        options.print_json(found)
        return
    from rich.markup import escape
    from rich.table import Column, Table

    table = Table("kind", "name", "plugin", Column("settings", overflow="fold"), "what it does")
    for kind in ("policy", "selector", "boundary", "kernel"):
        for entry in found[kind]:
            settings = ", ".join(f"{name}={value}" for name, value in entry["settings"].items())
            what = escape(entry["summary"])
            if kind == "kernel" and entry["name"] == found["auto_kernel"]:
                what += " [green](auto)[/]"
            if reason := entry["unavailable"]:
                what += f" [yellow](unavailable: {escape(reason)})[/]"
            table.add_row(kind, entry["name"], entry["plugin"], escape(settings), what)
    out.print(table)
    for problem in found["problems"]:
        reason = escape(f"{problem['plugin']}: {problem['reason']}")
        out.print(f"[red]not in use:[/] {reason}", highlight=False, soft_wrap=True)
    if found["disabled"]:
        out.print(f"disabled: {', '.join(found['disabled'])}", highlight=False)


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
