"""Tables of kind ``fidelity``."""

from __future__ import annotations

from collections.abc import Sequence

from sfi_agent.experiments.experiment import Cell
from sfi_agent.experiments.measure.fidelity import FidelityMeasurement
from sfi_agent.experiments.page import Page
from sfi_agent.experiments.tables.families import at, curves, workloads
from sfi_agent.experiments.tables.markdown import best, number, table, titled

AXES = FidelityMeasurement.axes


def fidelity_tables(page: Page, cells: Sequence[Cell]) -> list[str]:
    """Families compared at equal cost, then every policy, workload by workload."""
    compared = [_compared(cells, axis, value) for axis, values in page.compare.items() for value in values]
    return [*compared, *(_every(cells, workload) for workload in workloads(cells))]


def _compared(cells: Sequence[Cell], axis: str, value: float) -> str:
    """Agreement of every family at one value of ``axis``, interpolated."""
    names = workloads(cells)
    columns = [
        {family: at(curve, value) for family, curve in curves(cells, name, axis, "agree").items()}
        for name in names
    ]
    families = list(dict.fromkeys(cell.case.family for cell in cells))
    shown = [best([column.get(family) for family in families]) for column in columns]
    rows = [[family, *texts] for family, *texts in zip(families, *shown, strict=True)]
    return f"**Agreement at {AXES[axis]} {value:g}**, between the nearest policies measured\n\n" + table(
        ["policies", *names], rows
    )


def _every(cells: Sequence[Cell], workload: str) -> str:
    head = ["policy", "agree", "accept", "KL, nats", "perplexity ratio", "KV read", "slow steps"]
    rows = [
        [
            cell.case.label,
            number(cell.result.agree),
            number(cell.result.accept),
            number(cell.result.kl, 4),
            number(cell.result.ppl_ratio),
            number(cell.result.kv_read_fraction),
            number(cell.result.slow_rate),
        ]
        for cell in cells
        if cell.workload == workload
    ]
    return titled(f"Every policy on {workload}", head, rows)
