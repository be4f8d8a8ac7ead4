"""What a page's results look like: its tables between the markers, its plots beside it."""

from __future__ import annotations

from pathlib import Path

from sfi_agent.experiments.experiment import Experiment
from sfi_agent.experiments.plots import ALT, draw
from sfi_agent.experiments.results import Record
from sfi_agent.experiments.tables import TABLES
from sfi_agent.writing import write

NOT_RUN = "Not run yet."
NAMED = 4
"""Missing policies of a workload that a check names; the rest are counted."""


def files(experiment: Experiment) -> dict[Path, str]:
    """The page and its plots as the results say that they should be.

    Raises:
        SettingError: the page lacks its markers, or matplotlib is not installed.
    """
    page, path = experiment.page, experiment.document.path
    cells = experiment.cells()
    if not cells:
        return {path: experiment.document.with_results(NOT_RUN)}
    plots = {plot: _plot(path, plot) for plot in page.plots}
    parts = [f"![{ALT[plot]}]({file.name})" for plot, file in plots.items()]
    parts += TABLES[page.measure](page, cells)
    parts.append(_origin(experiment.answered()))
    return {
        path: experiment.document.with_results("\n\n".join(parts)),
        **{file: draw(plot, cells) for plot, file in plots.items()},
    }


def render(experiment: Experiment) -> list[Path]:
    """Write what is not as it should be; returns what was written."""
    changed = [(path, text) for path, text in files(experiment).items() if not _is(path, text)]
    for path, text in changed:
        write(path, text)
    return [path for path, _ in changed]


def check(experiment: Experiment) -> list[str]:
    """Why page, results and plots disagree, or are not there yet; nothing when they agree. Needs no model."""
    results, page = experiment.results, experiment.document.path
    expected = files(experiment)
    if results.path.exists():
        asks = list(experiment.asks())
        missing = [(workload, case.label) for workload, case, ask in asks if not results.find(ask)]
        problems = [f"{results.path.name} has no record of {told}" for told in _listed(missing)]
        left = len(results.unasked([ask for _, _, ask in asks]))
        problems += [f"{results.path.name} has {left} records that the page does not ask for"] if left else []
        stale = [path.name for path, text in expected.items() if not _is(path, text)]
        problems += [f"{name} is not what the results say" for name in stale]
    else:
        problems = [f"{page.name} has not been run: there is no {results.path.name}"]
    extra = [file for plot in ALT if (file := _plot(page, plot)).exists() and file not in expected]
    return [*problems, *(f"{file.name} is not among the page's plots; delete it" for file in extra)]


def _listed(missing: list[tuple[str, str]]) -> list[str]:
    """A line for each workload: the labels that it lacks, the first few of them by name."""
    lines = []
    for workload in dict.fromkeys(workload for workload, _ in missing):
        labels = [label for of, label in missing if of == workload]
        more = [f"{len(labels) - NAMED} more"] if len(labels) > NAMED else []
        lines.append(f"{workload}: {', '.join([*labels[:NAMED], *more])}")
    return lines


def _plot(page: Path, name: str) -> Path:
    return page.with_name(f"{page.stem}-{name}.svg")


def _is(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


def _origin(records: list[Record]) -> str:
    """Where the numbers come from, each combination once."""
    origins = dict.fromkeys((r.device, r.versions, r.commit) for r in records)
    dates = sorted({record.date for record in records})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    places = "; ".join(f"{device}, {versions}, commit {commit}" for device, versions, commit in origins)
    return f"*{len(records)} measurements, {when}: {places}.*"
