"""Where a benchmark's numbers go: a table on the terminal and rows in a CSV file of the repository."""

from __future__ import annotations

import csv
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
TIMED = frozenset({"s", "ms", "x", "tokens/s", "calls/min", "events/s", "MB/s"})
"""Units of what depends on how busy a machine is."""


@dataclass(frozen=True)
class Line:
    """One measured thing; ``p20``, ``p50``, ``p80`` over its rounds."""

    date: str
    commit: str
    device: str
    versions: str
    measurement: str
    name: str
    unit: str
    rounds: int
    p20: float
    p50: float
    p80: float


class Record:
    """Collects lines and appends each to ``benchmarks/results/<name>.csv``.

    Args:
        name: of the file.
        keep: whether to write at all.
        timed: whether to write what other work on the machine would change: times, rates, ratios of them.
    """

    def __init__(self, name: str, *, keep: bool = True, timed: bool = True) -> None:
        self.path = RESULTS / f"{name}.csv"
        self.keep, self.timed = keep, timed
        self._provenance = provenance()  # of the code that runs, whatever becomes of the tree meanwhile
        self.lines: list[Line] = []

    def add(self, measurement: str, unit: str, samples: dict[str, list[float]]) -> None:
        """One line for each sampled thing."""
        for name, values in samples.items():
            self._append(measurement, name, unit, values)

    def ratio(self, name: str, over: Sequence[float], under: Sequence[float], *, less: bool = False) -> None:
        """The paired ratios ``over / under``, round by round; ``less`` says that lower is better."""
        values = [a / b for a, b in zip(over, under, strict=True)]
        self._append("ratio, lower is better" if less else "ratio, higher is better", name, "x", values)

    def _append(self, measurement: str, name: str, unit: str, values: Sequence[float]) -> None:
        p20, p50, p80 = (_quantile(values, q) for q in (0.2, 0.5, 0.8))
        line = Line(
            **self._provenance,
            measurement=measurement,
            name=name,
            unit=unit,
            rounds=len(values),
            p20=round(p20, 3),
            p50=round(p50, 3),
            p80=round(p80, 3),
        )
        self.lines.append(line)
        if self.keep and (self.timed or unit not in TIMED):
            self._write(line)

    def _write(self, line: Line) -> None:
        append(self.path, asdict(line))


def append(path: Path, row: dict[str, object]) -> None:
    """Add a row to a CSV file, with a heading if the file is new."""
    path.parent.mkdir(exist_ok=True)
    fresh = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row))
        if fresh:
            writer.writeheader()
        writer.writerow(row)


def provenance() -> dict[str, str]:
    """Date, commit, device and versions, as every row states them."""
    import torch

    from sfi_agent.experiments.provenance import Provenance

    return asdict(Provenance.of(torch.device("cuda" if torch.cuda.is_available() else "cpu")))


def interleaved(runs: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Every run once to warm up, then all of them in turns."""
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for index in range(rounds + 1):
        for name, run in runs.items():
            value = run()
            if index:
                samples[name].append(value)
        medians = ", ".join(f"{name} {statistics.median(of):.1f}" for name, of in samples.items() if of)
        print(f"round {index} of {rounds}: {medians}", file=sys.stderr)
    return samples


def show(record: Record) -> None:
    """Print the lines as a table."""
    table = Table("measurement", "name", "p50", "p20 to p80", "rounds")
    for line in record.lines:
        spread = f"{line.p20:g} to {line.p80:g}"
        table.add_row(line.measurement, line.name, f"{line.p50:g} {line.unit}", spread, str(line.rounds))
    console = Console()
    console.print(table)
    if record.lines:
        console.print(
            f"{record.lines[0].device}, {record.lines[0].versions}, commit {record.lines[0].commit}"
        )
    if record.keep:
        console.print(f"appended to benchmarks/results/{record.path.name}")


def _quantile(values: Sequence[float], q: float) -> float:
    ordered = sorted(values)
    if len(ordered) == 1:
        return ordered[0]
    return statistics.quantiles(ordered, n=100, method="inclusive")[round(100 * q) - 1]
