"""``sfi-agent plugins``: what is registered, by whom, and what is not usable here, and why."""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING, Any

from sfi_agent.cli import options
from sfi_agent.cli.options import out

if TYPE_CHECKING:
    import torch

    from sfi_agent.contracts import AttentionKernel
    from sfi_agent.registry import Registry


def plugins(device: options.Device = "auto", json: options.Json = False) -> None:
    """List selectors, boundary detectors and kernels with their settings, and broken plugins."""
    found = _collect(device)
    if json:
        options.print_json(found)
        return
    from rich.table import Table

    table = Table("kind", "name", "plugin", "settings", "what it does")
    for kind in ("selector", "boundary", "kernel"):
        for entry in found[kind]:
            settings = ", ".join(f"{name}={value}" for name, value in entry["settings"].items())
            why_not = f" [yellow](unavailable: {entry['unavailable']})[/]" if entry["unavailable"] else ""
            table.add_row(kind, entry["name"], entry["plugin"], settings, entry["summary"] + why_not)
    out.print(table)
    for problem in found["problems"]:
        out.print(f"[red]not in use:[/] {problem['plugin']}: {problem['reason']}", highlight=False)
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
                "summary": (inspect.getdoc(entry.factory) or "").partition("\n")[0],
                "unavailable": _unavailable(registry, entry.name, place) if kind == "kernel" else None,
            }
            for entry in registry.entries(kind).values()
        ]
        for kind in HOOKS
    }
    found["problems"] = [dataclasses.asdict(problem) for problem in registry.problems]
    found["disabled"] = sorted(registry.disabled)
    return found


def _unavailable(registry: Registry, name: str, device: torch.device) -> str | None:
    kernel: AttentionKernel = registry.create("kernel", name)
    return kernel.unavailable(device)


def _settings(factory: Any) -> dict[str, Any]:
    if not dataclasses.is_dataclass(factory):
        return {}
    return {
        field.name: field.default if field.default is not dataclasses.MISSING else "..."
        for field in dataclasses.fields(factory)
        if field.init
    }
