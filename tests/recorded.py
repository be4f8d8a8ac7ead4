"""What benchmarks recorded: the rows of ``benchmarks/results``."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "benchmarks/results"


@cache
def _rows(results: str) -> list[dict[str, str]]:
    with (RESULTS / f"{results}.csv").open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def recorded(results: str, commit: str, measurement: str, name: str) -> list[float]:
    """Medians of so named a measurement at a commit: one for each time that it was made."""
    return [
        float(row["p50"])
        for row in _rows(results)
        if row["commit"].startswith(commit) and (row["measurement"], row["name"]) == (measurement, name)
    ]
