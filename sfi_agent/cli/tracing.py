"""``--trace``: the turns of a command as a page."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sfi_agent.cli.options import err
from sfi_agent.errors import SettingError

if TYPE_CHECKING:
    from sfi_agent.runtime.runtime import Runtime
    from sfi_agent.trace import Recorder

TraceFile = Annotated[
    Path | None,
    typer.Option("--trace", help="HTML file to write: every token and step, and the memory at work."),
]


def check(file: Path | None) -> None:
    """Refuse what could not be written later: bokeh or the folder is missing.

    Raises:
        SettingError: says which.
    """
    if file is None:
        return
    import sfi_agent.trace.figures  # noqa: F401 - it says what is missing

    folder = file.resolve().parent
    if file.is_dir() or not folder.is_dir():
        raise SettingError(f"--trace {file}: name a file in a folder that exists")
    another_kind = file.exists() and not file.is_file()  # a pipe, say: no file takes its place
    if not os.access(file if another_kind else folder, os.W_OK):
        raise SettingError(f"--trace {file}: cannot be written; name a file in a folder of yours")


@contextmanager
def recorded(file: Path | None, model: str = "") -> Iterator[Recorder | None]:
    """A recorder for the turns in this block, which then go to a page, also after an error; None: no file.

    Raises:
        SettingError: the file cannot be written.
    """
    if file is None:
        yield None
        return
    from sfi_agent.trace import Recorder, write

    recorder = Recorder(model)
    try:
        yield recorder
    finally:
        trace = recorder.trace
        if trace.turns:
            write(trace, file)
        told = f"wrote {file}" if trace.turns else f"no turn was decoded: {file} is not written"
        err.print(told, style="dim", highlight=False, soft_wrap=True)


@contextmanager
def traced(file: Path | None, runtime: Runtime, model: str) -> Iterator[None]:
    """As ``recorded``, for a runtime's turns."""
    with (
        recorded(file, model) as recorder,
        runtime.observers.heard_by(recorder) if recorder else nullcontext(),
    ):
        yield
