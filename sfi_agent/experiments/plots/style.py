"""How every plot looks: one size of text, colours that colour-blind readers tell apart, dark mode."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from itertools import pairwise
from math import ceil
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sfi_agent.experiments.experiment import Cell

INK, PAPER, GRID = "#1f2328", "#ffffff", "#d8dee4"
DARK = {INK: "#e6edf3", PAPER: "#0d1117", GRID: "#30363d"}
"""What these three become where the reader's page is dark; the colours of data suit both."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6d3b", "#808890",
           "#aa4499", "#44aa99", "#999933")  # fmt: skip
"""Okabe and Ito's without black and yellow, which vanish on one of the two backgrounds, and some of Tol's."""
MARKERS = "osD^vPX<>*"
LINES = ("-", "--", ":", "-.")
LEADER: dict[str, Any] = {
    "arrowstyle": "-", "linewidth": 0.5, "alpha": 0.6, "shrinkA": 0, "shrinkB": 2, "relpos": (0, 0.5),
}  # fmt: skip
"""The line from the end of a curve to its name."""
SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "sfi-agent",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.facecolor": PAPER,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
}


def svg(plot: Callable[[Sequence[Cell]], Figure], cells: Sequence[Cell]) -> str:
    """What ``plot`` draws; byte for byte the same for the same cells and version of matplotlib."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(SETTINGS)
        text = io.StringIO()
        plot(cells).savefig(text, format="svg", metadata={"Date": None, "Creator": "sfi-agent experiment"})
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    return "\n".join(lines).replace('<g id="figure_1">', f'{_dark_mode()}\n <g id="figure_1">', 1) + "\n"


def _dark_mode() -> str:
    rules = "".join(
        f' [style*="{kind}: {light}"] {{ {kind}: {dark} !important }}'
        for light, dark in DARK.items()
        for kind in ("fill", "stroke")
    )
    return f"<style>@media (prefers-color-scheme: dark) {{{rules} }}</style>"


def panels(count: int, *, labels: float = 1.0, height: float = 3.3) -> tuple[Figure, list[Axes]]:
    """A figure with this many panels, two a row.

    Args:
        count: of panels.
        labels: inches to the right of each panel, for direct labels.
        height: of a panel with its title and labels, inches.
    """
    columns, rows = min(2, count), ceil(count / 2)
    width, left, below, above = 4.9 * columns, 0.68, 0.55, 0.35
    tall = rows * height
    figure = Figure(figsize=(width, tall))
    axes = []
    for index in range(count):
        row, column = divmod(index, columns)
        x, y = 4.9 * column + left, (rows - 1 - row) * height + below
        size = (4.9 - left - labels, height - below - above)
        axes.append(figure.add_axes((x / width, y / tall, size[0] / width, size[1] / tall)))
    return figure, axes


def look(index: int) -> dict[str, Any]:
    """Colour, marker and line of the ``index``-th family; the first eleven differ in colour."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": LINES[index // len(COLOURS) % len(LINES)],
    }


def label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write each line's name to the right of the panel, at the height where it ends, none on another.

    Args:
        axes: with its limits set.
        ends: last point (x, y), name and colour of every line.
    """
    to_axes = axes.transData + axes.transAxes.inverted()
    room = 0.155 / (axes.get_position().height * axes.figure.get_figheight())  # type: ignore[union-attr]
    places = [float(to_axes.transform((x, y))[1]) for x, y, _, _ in ends]
    for (x, y, name, colour), height in zip(ends, spread(places, room), strict=True):
        axes.annotate(
            name,
            xy=(x, y),
            xytext=(1.03, height),
            textcoords="axes fraction",
            color=colour,
            fontsize=8,
            va="center",
            annotation_clip=False,
            arrowprops={**LEADER, "color": colour},
        )


def spread(places: Sequence[float], room: float) -> list[float]:
    """Heights near ``places``, in the same order, at least ``room`` apart, within 0 ... 1 if they fit."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    heights = list(places)
    for below, above in pairwise(order):
        heights[above] = max(heights[above], heights[below] + room)
    if order and (over := heights[order[-1]] - 1.0) > 0:
        heights[order[-1]] -= over
        for above, below in pairwise(order[::-1]):
            heights[below] = min(heights[below], heights[above] - room)
    return heights
