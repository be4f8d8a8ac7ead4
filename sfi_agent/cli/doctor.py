"""``sfi-agent doctor``: what this machine and installation can do."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer

from sfi_agent.cli import options
from sfi_agent.cli.options import out

PACKAGES = ("sfi-agent", "torch", "transformers", "triton", "langchain-core", "pluggy", "pydantic")


def doctor(
    model: Annotated[str | None, typer.Option(help="Also load this model and check it.")] = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    json: options.Json = False,
) -> None:
    """Report versions, device, cache and plugins; with --model, check it against transformers."""
    report = _machine()
    if model is not None:
        from sfi_agent.evaluate.selfcheck import selfcheck

        report["model"] = vars(selfcheck(options.runtime_of(model, device, dtype)))
    if json:
        options.print_json(report)
        return
    for name, value in report.items():
        out.print(f"{name:14} {_shown(value)}", highlight=False, markup=False, soft_wrap=True)


def _machine() -> dict[str, Any]:
    import torch

    from sfi_agent.environment import environment
    from sfi_agent.models.embedded import list_cached
    from sfi_agent.registry import default_registry
    from sfi_agent.runtime.linear import cpu_has_bfloat16

    registry = default_registry()
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "cpu_threads": torch.get_num_threads(),
        "cpu_bfloat16": cpu_has_bfloat16(),
        "cache": str(environment().cache),
        "models": [model.name for model in list_cached()],
        "plugins": registry.plugins,
        "problems": [f"{problem.plugin}: {problem.reason}" for problem in registry.problems],
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(part)}" for name, part in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, float):
        return f"{value:.3g}"
    return "missing" if value is None else str(value)
