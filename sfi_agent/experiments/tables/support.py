"""Tables of kind ``support``."""

from __future__ import annotations

from collections.abc import Sequence

from sfi_agent.experiments.experiment import Cell
from sfi_agent.experiments.measure.support import Curves, Support
from sfi_agent.experiments.page import Page
from sfi_agent.experiments.tables.markdown import number, table, titled

SHOWN = (1, 4, 16, 64, 256)
"""Distances that the summary shows, in tokens."""
FEWEST_PAIRS = 8
"""Distances with fewer pairs are not shown: their mean says little."""
LAYERS_AT = 16
"""Distance of the table by layer, or the greatest below."""


def support_tables(page: Page, cells: Sequence[Cell]) -> list[str]:
    """Means over layers at some distances; then layer by layer at one."""
    return [_summary(cells), *(_by_layer(cell) for cell in cells)]


def mean_over_layers(curves: Curves) -> list[float | None]:
    """``[distances]``."""
    columns = list(zip(*curves, strict=True))
    return [None if None in column else sum(column) / len(column) for column in columns]


def kinds(found: Support) -> list[tuple[str, tuple[int, ...], Curves]]:
    """Both kinds of pairs: name, pairs at each distance, mass kept."""
    return [
        ("within", found.pairs_within, found.mass_within),
        ("across", found.pairs_across, found.mass_across),
    ]


def enough(counts: Sequence[int]) -> list[int]:
    """Indices of the distances that have ``FEWEST_PAIRS``."""
    return [i for i, count in enumerate(counts) if count >= FEWEST_PAIRS]


def layers_at(support: Support) -> int:
    """Index of the distance that the table and plot by layer show."""
    return max((i for i, d in enumerate(support.distances) if d <= LAYERS_AT), default=0)


def _summary(cells: Sequence[Cell]) -> str:
    distances = [d for d in SHOWN if any(d in cell.result.distances for cell in cells)]
    head = ["workload", "boundaries", "pairs", *(f"{d} apart" for d in distances)]
    rows = []
    for cell in cells:
        found: Support = cell.result
        for pairs, counts, curves in kinds(found):
            known = {found.distances[i]: mean_over_layers(curves)[i] for i in enough(counts)}
            shares = [number(known.get(d)) for d in distances]
            rows.append([cell.workload, f"{cell.case.label} ({found.boundaries})", pairs, *shares])
    return "**Attention mass kept, mean over layers, by distance in tokens**\n\n" + table(head, rows)


def _by_layer(cell: Cell) -> str:
    found: Support = cell.result
    at = layers_at(found)
    head = ["layer", "mass, within", "mass, across", "positions, within", "positions, across",
            "attention on candidates", "of it on the support"]  # fmt: skip
    rows = [
        [
            str(layer),
            *(
                number(curves[i][at])
                for curves in (found.mass_within, found.mass_across, found.kept_within, found.kept_across)
            ),
            number(found.candidate_mass[i]),
            number(found.support_mass[i]),
        ]
        for i, layer in enumerate(found.layers)
    ]
    title = (
        f"{cell.workload}, {cell.case.label}: layer by layer, {found.distances[at]} tokens apart; a support "
        f"has {found.count} of {found.candidates} candidates"
    )
    return titled(title, head, rows)
