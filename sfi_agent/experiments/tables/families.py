"""Families of policies as curves, and their values between the points that were measured."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from sfi_agent.experiments.experiment import Cell

Curve = list[tuple[float, float]]


def curves(cells: Sequence[Cell], workload: str, x: str, y: str) -> dict[str, Curve]:
    """Each family's points ``(x, y)`` on one workload, by ascending x; families in the page's order."""
    found: dict[str, Curve] = {}
    for cell in cells:
        if cell.workload == workload:
            point = (float(getattr(cell.result, x)), float(getattr(cell.result, y)))
            found.setdefault(cell.case.family, []).append(point)
    return {family: sorted(curve) for family, curve in found.items()}


def at(curve: Curve, x: float) -> float | None:
    """The curve's value at ``x``, on the straight line between the points beside it; None outside them."""
    for left, right in pairwise(curve):
        if left[0] <= x <= right[0]:
            share = (x - left[0]) / (right[0] - left[0]) if right[0] > left[0] else 1.0
            return left[1] + share * (right[1] - left[1])
    return curve[0][1] if len(curve) == 1 and curve[0][0] == x else None


def workloads(cells: Sequence[Cell]) -> list[str]:
    """Those that have results, in the page's order."""
    return list(dict.fromkeys(cell.workload for cell in cells))
