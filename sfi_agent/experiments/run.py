"""Running a page: what is not measured yet is measured, and each result is on disk before the next begins."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sfi_agent.errors import PluginError, PromptError, SettingError, SFIError, UnknownNameError
from sfi_agent.experiments.experiment import Experiment, own
from sfi_agent.experiments.grid import Case
from sfi_agent.experiments.measure.base import Measurement, Reading
from sfi_agent.experiments.plugins import told
from sfi_agent.experiments.provenance import Provenance, fingerprint
from sfi_agent.experiments.results import Question, Record
from sfi_agent.runtime.runtime import Runtime

Load = Callable[[Experiment], Runtime]


@dataclass(frozen=True)
class Say:
    """Where progress goes.

    Attributes:
        status: what happens right now; each line replaces the one before.
        line: what has happened, to stay.
    """

    status: Callable[[str], None]
    line: Callable[[str], None]


def run(
    path: Path, load: Load, say: Say, *, only: str | None = None, workloads: Sequence[str] = ()
) -> Experiment:
    """Measure what the page at ``path`` asks and its results file lacks.

    A record counts if it was measured as the page asks, with these weights, on these tokens. A run of
    the whole page drops records that it does not ask for any more. Several processes may run parts of
    one page at once.

    Args:
        path: of the page.
        load: makes the runtime, with the experiment's registry.
        say: progress.
        only: label or family of the policies to measure.
        workloads: of the page, those to measure; none: all.

    Raises:
        SFIError: something on the page is wrong, or its own code failed; in one line.
    """
    experiment = Experiment.read(path)
    chosen, page = experiment.chosen(only), experiment.page
    for name in workloads:
        if name not in page.workloads:
            raise UnknownNameError("workload of the page", name, page.workloads)
    with load(experiment) as runtime:
        _refuse_early(experiment, runtime, chosen)
        runner = Runner(experiment, runtime, say)
        for workload in workloads or page.workloads:
            runner.measure(workload, chosen)
    asks = [ask for _, _, ask in experiment.asks()]
    if only is None and not workloads and (left := experiment.results.unasked(asks)):
        experiment.results.drop(left)
        say.line(f"dropped {len(left)} records that the page no longer asks for")
    return experiment


class Runner:
    """Measures the cases of one experiment with one runtime."""

    def __init__(self, experiment: Experiment, runtime: Runtime, say: Say) -> None:
        self._experiment, self._runtime, self._say = experiment, runtime, say
        self._measurement: Measurement[Any, Any] = experiment.kind()
        self._weights = fingerprint(runtime)

    def measure(self, workload: str, cases: Sequence[Case]) -> None:
        """What is missing of these policies on one workload."""
        experiment = self._experiment
        text = experiment.text_of(workload) if own(workload) else None
        reading = self._measurement.read(self._runtime, experiment.page, workload, text)
        asks = [(case, experiment.ask(workload, case)) for case in cases]
        found = {"weights": self._weights, "tokens": reading.digest}
        todo = [(case, ask) for case, ask in asks if not experiment.results.find(ask, **found)]
        if held := len(cases) - len(todo):
            self._say.line(f"{workload}: {held} of {len(cases)} measured already")
        if not todo:
            return
        progress = self._progress(f"{workload}: preparing")
        shared = self._guarded(workload, lambda: self._measurement.prepare(self._runtime, reading, progress))
        for number, (case, ask) in enumerate(todo, 1):
            self._one(f"{workload}, {case.label} ({number} of {len(todo)})", reading, case, ask, shared)

    def _one(self, title: str, reading: Reading, case: Case, ask: Question, shared: Any) -> None:
        began, progress = time.perf_counter(), self._progress(title)
        found = self._guarded(
            f"{reading.name}, {case.label}",
            lambda: self._measurement.measure(self._runtime, reading, case, shared, progress),
        )
        seconds = time.perf_counter() - began
        record = Record.of(
            ask,
            self._weights,
            reading.digest,
            values=asdict(found),
            seconds=round(seconds, 1),
            **asdict(Provenance.of(self._runtime.device)),
        )
        self._experiment.results.put(record, ask)
        self._say.line(f"{title}: {seconds:.1f} s")

    def _progress(self, title: str) -> Callable[[int, int], None]:
        return lambda done, total: self._say.status(f"{title}: {done} of {total}")

    def _guarded(self, title: str, measure: Callable[[], Any]) -> Any:
        """Run; what a selector of the page's own raises becomes one line that says where."""
        try:
            return measure()
        except SFIError:
            raise
        except Exception as error:
            own_code = self._experiment.document.path if self._experiment.own.sources else None
            raise PluginError(f"{title}: {told(error, own_code)}") from error


def _refuse_early(experiment: Experiment, runtime: Runtime, chosen: Sequence[Case]) -> None:
    """Name what cannot run before hours are spent on what can."""
    page = experiment.page
    if (longest := experiment.kind.longest(page)) > runtime.window:
        raise PromptError(
            f"the page reads {longest} tokens, but {page.model}'s window is {runtime.window}; "
            "lower context or decode"
        )
    for case in chosen:
        try:
            runtime.parts(case.policy)
        except SettingError as error:
            raise SettingError(f"{experiment.document.path}: policy {case.label!r}: {error}") from None
