"""A trace as one HTML page: everything it needs is in it."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from sfi_agent import writing
from sfi_agent.trace.coarser import fitted
from sfi_agent.trace.model import Trace

SCRIPTS = ("data.js", "text.js", "summary.js", "charts.js", "live.js", "main.js")
MOST = 3_600_000
"""Characters of a trace in a page; with the library it stays below 5 MB."""


def write(trace: Trace, path: Path) -> None:
    """Write a trace as a page; strips become coarser where the file would be larger than 5 MB.

    Raises:
        SettingError: bokeh is not installed, or the file cannot be written; it is as it was then.
    """
    writing.write(path, render(fitted(trace, MOST).model_dump(mode="json"), trace.model))


def render(trace: Mapping[str, Any], model: str) -> str:
    """The page of a trace, or of ``{"live": true}``, which asks its server for what there is.

    Raises:
        SettingError: bokeh is not installed.
    """
    from sfi_agent.trace.figures import charts, library

    return _asset("page.html").format(
        title=html.escape(f"The memory at work{f': {model}' if model else ''}"),
        reach="'self'" if trace.get("live") else "'none'",
        style=_asset("page.css"),
        trace=_json(trace),
        charts=_json(charts()),
        library=library(),
        script="\n".join(_asset(name) for name in SCRIPTS),
    )


def _asset(name: str) -> str:
    return (resources.files("sfi_agent.trace") / "assets" / name).read_text(encoding="utf-8")


def _json(value: Any) -> str:
    """JSON that ends no script element, whatever text it holds."""
    written = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return written.replace("<", "\\u003c")
