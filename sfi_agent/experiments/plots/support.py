"""How long the support of a token stays that of the tokens after it."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import quantiles

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sfi_agent.experiments.experiment import Cell
from sfi_agent.experiments.measure.support import Curves, Support
from sfi_agent.experiments.plots.style import COLOURS, label_ends, panels
from sfi_agent.experiments.tables.support import enough, kinds, layers_at, mean_over_layers

TICKS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


def support(cells: Sequence[Cell]) -> Figure:
    """Mass kept against distance: mean over layers, and the middle half of the layers as a band."""
    figure, axes = panels(len(cells), labels=1.05)
    for panel, cell in zip(axes, cells, strict=True):
        found: Support = cell.result
        ends = []
        for (name, pairs, curves), colour in zip(kinds(found), COLOURS, strict=False):
            if drawn := enough(pairs):
                ends.append(_curve(panel, found, curves, drawn, name, colour))
        panel.set(title=_title(cell), xlabel="distance, tokens", ylabel="mass kept, share", ylim=(0, 1.02))
        panel.set_xscale("log", base=2)
        panel.set_xticks(ticks := [t for t in TICKS if t <= max(found.distances)], list(map(str, ticks)))
        panel.minorticks_off()
        label_ends(panel, ends)
    return figure


def layers(cells: Sequence[Cell]) -> Figure:
    """Mass kept in each layer, at one distance."""
    figure, axes = panels(len(cells), labels=1.05)
    for panel, cell in zip(axes, cells, strict=True):
        found: Support = cell.result
        at, ends = layers_at(found), []
        for (name, _, curves), colour in zip(kinds(found), COLOURS, strict=False):
            shares = zip(found.layers, (layer[at] for layer in curves), strict=True)
            points = [(layer, share) for layer, share in shares if share is not None]
            if points:
                panel.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=3)
                ends.append((*points[-1], name, colour))
        title = f"{_title(cell)}, {found.distances[at]} tokens apart"
        panel.set(title=title, xlabel="layer", ylabel="mass kept, share", ylim=(0, 1.02))
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        label_ends(panel, ends)
    return figure


def _curve(
    panel: Axes, found: Support, curves: Curves, drawn: Sequence[int], name: str, colour: str
) -> tuple[float, float, str, str]:
    """Draw a line and its band; returns its end, name and colour."""
    x = [found.distances[i] for i in drawn]
    y = [float(mean) for i in drawn if (mean := mean_over_layers(curves)[i]) is not None]
    panel.plot(x, y, color=colour, marker="o", label=name)
    if len(curves) > 1:
        middle = [quantiles([layer[i] or 0.0 for layer in curves], n=4, method="inclusive") for i in drawn]
        low, high = [q[0] for q in middle], [q[2] for q in middle]
        panel.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
    return x[-1], y[-1], name, colour


def _title(cell: Cell) -> str:
    return f"{cell.workload}, {cell.case.label}"
