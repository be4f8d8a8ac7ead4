"""The table of kind ``drafts``."""

from __future__ import annotations

from collections.abc import Sequence

from sfi_agent.evaluate.drafts import Drafts
from sfi_agent.experiments.experiment import Cell
from sfi_agent.experiments.page import Page
from sfi_agent.experiments.tables.families import workloads
from sfi_agent.experiments.tables.markdown import number, titled


def drafts_tables(page: Page, cells: Sequence[Cell]) -> list[str]:
    """Every policy, workload by workload."""
    return [_every(cells, workload) for workload in workloads(cells)]


def _every(cells: Sequence[Cell], workload: str) -> str:
    head = ["policy", "accepted a draft", "of drafted", "tokens a dense pass", "slow + fast steps", "KV read",
            "tokens/s", "dense tokens/s", "equals dense"]  # fmt: skip
    rows = [[cell.case.label, *_row(cell.result)] for cell in cells if cell.workload == workload]
    return titled(f"Drafts on {workload}", head, rows)


def _row(found: Drafts) -> list[str]:
    return [
        number(found.mean_accepted, 1),
        number(found.accepted_share, 2),
        number(found.tokens_per_pass, 1),
        f"{found.slow_steps} + {found.fast_steps}",
        number(found.kv_read_fraction),
        number(found.tokens_per_second, 1),
        number(found.dense_tokens_per_second, 1),
        _equal(found),
    ]


def _equal(found: Drafts) -> str:
    if found.equal:
        return f"all {found.answer_tokens}"
    return f"until token {found.first_difference} ({'a tie' if found.tie else 'no tie'})"
