"""Agreement against cost, one line a family."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sfi_agent.experiments.experiment import Cell
from sfi_agent.experiments.plots.style import label_ends, look, panels
from sfi_agent.experiments.tables.families import curves, workloads


def frontier(cells: Sequence[Cell]) -> Figure:
    """Against KV bytes."""
    return _agreement(cells, "kv_read_fraction", "KV bytes read, share of dense attention's")


def slow_rate(cells: Sequence[Cell]) -> Figure:
    """Against slow steps."""
    return _agreement(cells, "slow_rate", "slow steps, share of decode steps")


def _agreement(cells: Sequence[Cell], x: str, label: str) -> Figure:
    names = workloads(cells)
    families = list(dict.fromkeys(cell.case.family for cell in cells))
    figure, axes = panels(len(names), labels=1.25)
    for panel, name in zip(axes, names, strict=True):
        found = curves(cells, name, x, "agree")
        for family, curve in found.items():
            panel.plot(*zip(*curve, strict=True), **look(families.index(family)))
        panel.set(title=name, xlabel=label, ylabel="agreement, share of tokens")
        _limits(panel, [y for curve in found.values() for _, y in curve])
        label_ends(
            panel,
            [(*curve[-1], family, look(families.index(family))["color"]) for family, curve in found.items()],
        )
    return figure


def _limits(panel: Axes, agreements: Sequence[float]) -> None:
    """From a little below the lowest to 1, which is dense attention."""
    low = min(agreements)
    panel.set_ylim(low - 0.06 * (1 - low) - 0.005, 1.005)
    panel.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
