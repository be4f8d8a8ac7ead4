"""``sfi-agent experiment``: pages whose results are measured, drawn and checked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sfi_agent.cli import options, tracing
from sfi_agent.cli.options import err, out
from sfi_agent.errors import SettingError, SFIError

if TYPE_CHECKING:
    from sfi_agent.experiments.experiment import Experiment
    from sfi_agent.experiments.run import Load
    from sfi_agent.runtime.runtime import Runtime
    from sfi_agent.trace import Recorder

app = typer.Typer(help="Run experiments: pages that declare what they measure.", no_args_is_help=True)

Pages = Annotated[list[Path], typer.Argument(help="Pages, Markdown files with front matter.")]
Folder = Annotated[Path, typer.Option(help="Where the pages are.")]
FOLDER = Path("docs/experiments")


@app.command("run")
def run(
    pages: Pages,
    check: Annotated[
        bool, typer.Option("--check", help="Measure nothing; fail where page, results and plots disagree.")
    ] = False,
    device: options.Device = "auto",
    dtype: Annotated[str, typer.Option(help="Must be the page's own, which is what counts.")] = "auto",
    only: Annotated[str | None, typer.Option(help="Label or family of the policies to measure.")] = None,
    workload: Annotated[
        list[str] | None, typer.Option(help="Of the page, to measure alone; repeatable.")
    ] = None,
    trace: tracing.TraceFile = None,
) -> None:
    """Measure what a page lacks, then rewrite its tables and plots."""
    tracing.check(trace)
    if check:
        _check(pages)
        return
    from sfi_agent.experiments import run as running
    from sfi_agent.experiments.render import render

    if trace:
        _check_answers(pages)
    with tracing.recorded(trace) as recorder:
        for page in pages:
            with options.status(f"{page}") as status:
                say = running.Say(status, _line)
                experiment = running.run(
                    page, _load(device, dtype, status, recorder), say, only=only, workloads=workload or ()
                )
            for written in render(experiment):
                _line(f"wrote {written}")
            out.print(f"{page}: {_state(experiment)}", highlight=False, soft_wrap=True)


@app.command("render")
def render_(pages: Pages) -> None:
    """Rewrite the tables and plots of pages from their results; measures nothing, needs no model."""
    from sfi_agent.experiments.experiment import Experiment
    from sfi_agent.experiments.render import render

    for page in pages:
        experiment = Experiment.read(page)
        for written in render(experiment):
            _line(f"wrote {written}")
        out.print(f"{page}: {_state(experiment)}", highlight=False, soft_wrap=True)


@app.command("new")
def new(
    name: Annotated[str, typer.Argument(help="Of the page: lower-case words joined by hyphens.")],
    folder: Folder = FOLDER,
) -> None:
    """Write a page from the template, with everything explained in it."""
    from sfi_agent.experiments.new import new_page

    out.print(f"wrote {new_page(name, folder)}", highlight=False, soft_wrap=True)


@app.command("list")
def list_(folder: Folder = FOLDER, json: options.Json = False) -> None:
    """List the pages of a folder: question, how much of it is measured, and what is wrong with a page."""
    if not folder.is_dir():
        raise SettingError(
            f"{folder} is no folder; run it in a clone, where pages are, or name their folder with --folder"
        )
    from sfi_agent.experiments.document import Document
    from sfi_agent.experiments.experiment import Experiment

    rows, lines, broken = [], [], []
    for page in sorted(folder.glob("*.md")):
        try:
            if Document.read(page).has_front_matter:
                experiment = Experiment.read(page)
                rows.append(_row(experiment))
                lines.append(_told(experiment))
        except SFIError as error:
            problem = str(error).removeprefix(f"{page}: ")
            broken.append({"page": str(page), "problem": problem})
            lines.append(f"{page}: cannot be run: {problem}")
    if json:
        options.print_json({"experiments": rows, "broken": broken})
        return
    for line in lines:
        out.print(line, highlight=False, soft_wrap=True, markup=False)


def _check_answers(pages: list[Path]) -> None:
    """Refuse pages of which none has a turn to trace, before hours of measuring."""
    from sfi_agent.experiments.experiment import Experiment
    from sfi_agent.experiments.measure import KINDS

    measures = {Experiment.read(page).page.measure for page in pages}
    if not any(KINDS[measure].answers for measure in measures):
        answering = " or ".join(sorted(name for name, kind in KINDS.items() if kind.answers))
        raise SettingError(
            f"--trace: measure {', '.join(sorted(measures))} reads texts and decodes no turn to trace; name "
            f"a page of measure {answering}"
        )


def _check(pages: list[Path]) -> None:
    from sfi_agent.experiments.experiment import Experiment
    from sfi_agent.experiments.render import check

    failed = False
    for page in pages:
        experiment = Experiment.read(page)
        problems = check(experiment)
        failed = failed or bool(problems)
        for problem in problems:
            out.print(f"{page}: {problem}", highlight=False, soft_wrap=True, markup=False)
        if not problems:
            out.print(f"{page}: {_state(experiment)}", highlight=False, soft_wrap=True)
    if failed:
        raise SFIError("run: sfi-agent experiment run PAGE (or `render` where only the drawing changed)")


def _load(device: str, dtype: str, status: Callable[[str], None], recorder: Recorder | None) -> Load:
    def load(experiment: Experiment) -> Runtime:
        page = experiment.page
        if dtype not in ("auto", page.dtype):
            raise SettingError(f"{experiment.document.path} is about dtype {page.dtype}; change it there")
        from sfi_agent.models.embedded import EMBEDDED, ensure_embedded
        from sfi_agent.runtime.runtime import Runtime

        if recorder:
            recorder.model = page.model
            experiment.registry.add(recorder)
        status(f"loading {page.model}")
        if page.model in EMBEDDED:
            ensure_embedded(page.model, progress=status)
        return Runtime.load(page.model, device=device, dtype=page.dtype, registry=experiment.registry)

    return load


def _state(experiment: Experiment) -> str:
    """``not run yet``, or how many of its measurements a page has."""
    if not experiment.results.path.exists():
        return "not run yet"
    asked = sum(1 for _ in experiment.asks())
    return f"{len(experiment.cells())} of {asked} measured"


def _told(experiment: Experiment) -> str:
    page = experiment.page
    return f"{experiment.document.path}: {page.question} {page.model}, {page.measure}; {_state(experiment)}"


def _row(experiment: Experiment) -> dict[str, object]:
    page = experiment.page
    return {
        "page": str(experiment.document.path),
        "question": page.question,
        "measure": page.measure,
        "model": page.model,
        "asked": sum(1 for _ in experiment.asks()),
        "measured": len(experiment.cells()),
    }


def _line(text: str) -> None:
    err.print(text, highlight=False, soft_wrap=True, markup=False)
