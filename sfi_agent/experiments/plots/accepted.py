"""Accepted lengths of drafts, and what they come to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sfi_agent.evaluate.drafts import Drafts
from sfi_agent.experiments.experiment import Cell
from sfi_agent.experiments.plots.style import LINES, label_ends, look, panels
from sfi_agent.experiments.tables.families import curves, workloads


def accepted(cells: Sequence[Cell]) -> Figure:
    """Share of drafts with at least n accepted tokens, one line a policy."""
    names, styles = workloads(cells), _styles(cells)
    figure, axes = panels(len(names), labels=1.55)
    for panel, name in zip(axes, names, strict=True):
        ends = []
        for cell in cells:
            if cell.workload != name:
                continue
            shares, style = survival(cell.result), styles[cell.case.label]
            panel.plot(range(len(shares)), shares, **style)
            ends.append((len(shares) - 1, shares[-1], cell.case.label, style["color"]))
        panel.set(title=name, xlabel="tokens accepted, at least", ylabel="share of drafts", ylim=(0, 1.02))
        panel.set_xlim(left=0)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        label_ends(panel, ends)
    return figure


def _styles(cells: Sequence[Cell]) -> dict[str, dict[str, Any]]:
    """By label: the family's colour, and a line of its own within the family."""
    families: dict[str, list[str]] = {}
    for cell in cells:
        labels = families.setdefault(cell.case.family, [])
        if cell.case.label not in labels:
            labels.append(cell.case.label)
    return {
        label: {"color": look(number)["color"], "linestyle": LINES[place % len(LINES)]}
        for number, labels in enumerate(families.values())
        for place, label in enumerate(labels)
    }


def survival(found: Drafts) -> list[float]:
    """For n = 0, 1, 2, ...: the share of drafts with at least n accepted tokens."""
    counts = found.accepted or (1,)
    return [sum(counts[n:]) / sum(counts) for n in range(len(counts))]


def speed(cells: Sequence[Cell]) -> Figure:
    """Tokens a dense pass against KV bytes, one line a family."""
    names = workloads(cells)
    families = list(dict.fromkeys(cell.case.family for cell in cells))
    figure, axes = panels(len(names), labels=1.25)
    for panel, name in zip(axes, names, strict=True):
        found = curves(cells, name, "kv_read_fraction", "tokens_per_pass")
        ends = []
        for family, curve in found.items():
            style = look(families.index(family))
            panel.plot(*zip(*curve, strict=True), **style)
            ends.append((*curve[-1], family, style["color"]))
        panel.set(
            title=name, xlabel="KV bytes read, share of dense attention's", ylabel="tokens a dense pass"
        )
        panel.margins(y=0.08)
        panel.set_ylim(bottom=0)
        label_ends(panel, ends)
    return figure
