"""A page with everything that follows from it: policies, what to measure, and the results so far."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sfi_agent.errors import SettingError, UnknownNameError
from sfi_agent.experiments.document import Document
from sfi_agent.experiments.grid import Case, cases
from sfi_agent.experiments.measure import KINDS, kind_of
from sfi_agent.experiments.measure.base import Measurement
from sfi_agent.experiments.page import Page
from sfi_agent.experiments.plugins import OwnCode
from sfi_agent.experiments.results import Question, Record, Results
from sfi_agent.policy import Policy
from sfi_agent.registry import Registry


@dataclass(frozen=True)
class Cell:
    """A measured policy on a workload: what tables and plots are made of.

    Attributes:
        workload: its name.
        case: label, family and policy.
        result: of the class that the kind of measurement names.
    """

    workload: str
    case: Case
    result: Any


@dataclass(frozen=True)
class Experiment:
    """What a page asks for.

    Attributes:
        document: its text.
        page: its front matter.
        registry: this installation's plugins and the page's own.
        cases: its policies.
        kind: of measurement.
        results: measured so far.
        own: the page's own code.
    """

    document: Document
    page: Page
    registry: Registry
    cases: tuple[Case, ...]
    kind: type[Measurement[Any, Any]]
    results: Results
    own: OwnCode

    @classmethod
    def read(cls, path: Path) -> Experiment:
        """The experiment of the page at ``path``.

        Raises:
            SettingError, PluginError: the page, its code or its results file is wrong; in one line.
        """
        document = Document.read(path)
        page = Page.of(document)
        document.with_results("")  # it must have its markers
        own = OwnCode.of(document, page)
        registry = own.registry()
        try:
            found, kind = cases(page, registry), kind_of(page.measure)
            _check_known(page, kind)
            _check_sampled(found, kind)
        except SettingError as error:
            raise SettingError(f"{path}: {error}") from None
        return cls(document, page, registry, found, kind, Results.beside(path), own)

    def ask(self, workload: str, case: Case) -> Question:
        """What the page asks about one policy on one workload."""
        page = self.page
        return Question(
            measure=page.measure,
            version=self.kind.version,
            model=page.model,
            dtype=page.dtype,
            workload=workload,
            seed=page.seed,
            text=hashlib.sha256(self.text_of(workload).encode()).hexdigest()[:16] if own(workload) else "",
            context=page.context,
            decode=page.decode,
            policy=spelled_out(case.policy, self.registry).model_dump(mode="json"),
            plugin=self.own.digest(case.policy, self.registry),
            samples=page.samples,
            temperature=case.temperature,
        )

    def asks(self) -> Iterator[tuple[str, Case, Question]]:
        """Every measurement, the policies of one workload together."""
        for workload in self.page.workloads:
            for case in self.cases:
                yield workload, case, self.ask(workload, case)

    def text_of(self, workload: str) -> str:
        """The text of a file beside the page."""
        return Document.read(self.document.path.parent / workload, "workload").text

    def cells(self) -> list[Cell]:
        """What was measured of what the page asks, in the page's order."""
        found = ((workload, case, self.results.find(ask)) for workload, case, ask in self.asks())
        return [Cell(workload, case, self._parsed(record)) for workload, case, record in found if record]

    def answered(self) -> list[Record]:
        """The records behind :meth:`cells`, each once."""
        found = (self.results.find(ask) for _, _, ask in self.asks())
        return list({record.key: record for record in found if record}.values())

    def chosen(self, only: str | None) -> tuple[Case, ...]:
        """The policies with this label or of this family; all for None.

        Raises:
            UnknownNameError: there is none; lists families and labels.
        """
        names = {name: None for case in self.cases for name in (case.family, case.label)}
        if only is not None and only not in names:
            raise UnknownNameError("policy of the page", only, names)
        return tuple(case for case in self.cases if only in (None, case.family, case.label))

    def _parsed(self, record: Record) -> Any:
        try:
            return self.kind.parse(record.values)
        except ValidationError as error:
            wrong = error.errors()[0]
            raise SettingError(
                f"{self.results.path}: record {record.key}: {'.'.join(map(str, wrong['loc']))}: "
                f"{wrong['msg']}; delete the file and run the page again"
            ) from None


def _check_known(page: Page, kind: type[Measurement[Any, Any]]) -> None:
    """Refuse what the kind of measurement does not have to read or to show."""
    for name in page.workloads:
        if name not in kind.workloads and not (kind.own_texts and own(name)):
            raise UnknownNameError(f"workload of {kind.kind}", name, kind.workloads)
    for plot in page.plots:
        if plot not in kind.plots:
            raise UnknownNameError(f"plot of {kind.kind}", plot, kind.plots)
    for axis in page.compare:
        if axis not in kind.axes:
            raise UnknownNameError(f"quantity to compare {kind.kind} at", axis, kind.axes)


def _check_sampled(found: Sequence[Case], kind: type[Measurement[Any, Any]]) -> None:
    """Refuse temperatures where nothing is drawn."""
    if not kind.samples and (warm := next((case for case in found if case.temperature), None)):
        raise SettingError(
            f"policy {warm.label!r}: temperature: {kind.kind} draws no answers; "
            f"leave it out, or measure {' or '.join(k.kind for k in KINDS.values() if k.samples)}"
        )


def own(workload: str) -> bool:
    """Whether a workload is a file beside the page."""
    return workload.endswith(".txt")


def spelled_out(policy: Policy, registry: Registry) -> Policy:
    """The policy with every setting of its selector and detectors, so that a changed default is a change."""
    detectors = {
        name: registry.settings("boundary", name, policy.boundary_settings.get(name))
        for name in policy.boundaries
    }
    selector = registry.settings("selector", policy.selector, policy.selector_settings)
    return policy.but(selector_settings=selector, boundary_settings=detectors)
