"""What a policy finds, against what it reads."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from sfi_agent.experiments.experiment import Cell
from sfi_agent.experiments.plots.style import INK, label_ends, look, panels
from sfi_agent.experiments.tables.families import curves, workloads


def scores(cells: Sequence[Cell]) -> Figure:
    """Share of the answers found against KV bytes, one line a family; dense attention's as a level."""
    names = workloads(cells)
    families = list(dict.fromkeys(cell.case.family for cell in cells))
    figure, axes = panels(len(names), labels=1.25)
    for panel, name in zip(axes, names, strict=True):
        dense = next(cell.result.dense_score for cell in cells if cell.workload == name)
        panel.axhline(dense, color=INK, linewidth=1, linestyle="--")
        ends = []
        for family, curve in curves(cells, name, "kv_read_fraction", "score").items():
            style = look(families.index(family))
            panel.plot(*zip(*curve, strict=True), **style)
            ends.append((*curve[-1], family, style["color"]))
        panel.set(title=name, xlabel="KV bytes read, share of dense attention's", ylabel="answers found")
        panel.set_ylim(-0.03, 1.03)
        label_ends(panel, [*ends, (panel.get_xlim()[1], dense, "dense", INK)])
    return figure
