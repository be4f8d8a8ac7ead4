"""Tables of kind ``retrieval``."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from sfi_agent.experiments.experiment import Cell
from sfi_agent.experiments.measure.retrieval import RetrievalScores
from sfi_agent.experiments.page import Page
from sfi_agent.experiments.tables.families import workloads
from sfi_agent.experiments.tables.markdown import number, table, titled


def retrieval_tables(page: Page, cells: Sequence[Cell]) -> list[str]:
    """Every task at a glance, then length by length."""
    return [_summary(cells), *(_by_length(cells, task) for task in workloads(cells))]


def _summary(cells: Sequence[Cell]) -> str:
    """Policies by tasks; dense attention, which every policy has beside it, as a row of its own."""
    tasks, labels = workloads(cells), list(dict.fromkeys(cell.case.label for cell in cells))
    found: dict[tuple[str, str], RetrievalScores] = {
        (cell.case.label, cell.workload): cell.result for cell in cells
    }
    dense = {cell.workload: cell.result.dense_score for cell in cells}
    rows = [["dense", "1.000", *(number(dense[task]) for task in tasks), ""]]
    for label in labels:
        have = [found[label, task] for task in tasks if (label, task) in found]
        scores = [number(found[label, task].score) if (label, task) in found else "–" for task in tasks]
        changed = f"{sum(one.lost for one in have)} / {sum(one.gained for one in have)}"
        rows.append([label, number(fmean(one.kv_read_fraction for one in have)), *scores, changed])
    title = "**Share of the answers found, mean over all lengths**"
    return f"{title}\n\n" + table(["policy", "KV read", *tasks, "worse / better than dense"], rows)


def _by_length(cells: Sequence[Cell], task: str) -> str:
    mine = [cell for cell in cells if cell.workload == task]
    first: RetrievalScores = mine[0].result
    head = ["policy", *(f"{length:,} tokens" for length in first.lengths), "KV read"]
    rows = [["dense", *map(number, first.dense), "1.000"]]
    rows += [
        [cell.case.label, *map(number, cell.result.policy), number(cell.result.kv_read_fraction)]
        for cell in mine
    ]
    questions = f"{first.samples} question{'s' if first.samples > 1 else ''} at each length"
    return titled(f"{task}, {questions}", head, rows)
