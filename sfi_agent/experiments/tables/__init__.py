"""A page's tables, in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sfi_agent.experiments.experiment import Cell
from sfi_agent.experiments.page import Page
from sfi_agent.experiments.tables.drafts import drafts_tables
from sfi_agent.experiments.tables.fidelity import fidelity_tables
from sfi_agent.experiments.tables.retrieval import retrieval_tables
from sfi_agent.experiments.tables.support import support_tables

TABLES: dict[str, Callable[[Page, Sequence[Cell]], list[str]]] = {
    "fidelity": fidelity_tables,
    "support": support_tables,
    "drafts": drafts_tables,
    "retrieval": retrieval_tables,
}
"""By kind of measurement."""
