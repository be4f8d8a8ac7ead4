"""What ``sfi-agent eval suite`` shows people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from sfi_agent.evaluate.drafts import Drafts
    from sfi_agent.evaluate.suite import SuiteResult
    from sfi_agent.evaluate.tool_calls import ToolCalls


def tables_of(found: SuiteResult) -> Iterator[Table]:
    """A rich table for each kind of measurement that was made."""
    if found.fidelity:
        yield _fidelity(found)
    if found.answers:
        yield _answers(found)
    if found.drafts:
        yield _drafts(found)
    if found.tool_calls:
        yield _tool_calls(found.tool_calls)
    if found.retrieval:
        yield _retrieval(found)


def _fidelity(found: SuiteResult) -> Table:
    table = _table("Fidelity: the same text read both ways", "text", "agree", "accept", "KL", "KV read")
    for name, of in found.fidelity.items():
        table.add_row(name, *_figures(of.agree, of.accept, of.kl, of.kv_read_fraction))
    return table


def _answers(found: SuiteResult) -> Table:
    table = _table("Answers: each writes its own", "text", "equal tokens", "first difference", "KV read")
    for name, of in found.answers.items():
        at = "none" if of.divergence is None else f"token {of.divergence} of {of.tokens}"
        table.add_row(name, *_figures(of.equal_tokens), at, *_figures(of.kv_read_fraction))
    return table


def _drafts(found: SuiteResult) -> Table:
    table = _table(
        "Drafts: verified mode", "text", "accepted a draft", "of drafted", "KV read", "equals dense"
    )
    for name, of in found.drafts.items():
        figures = _figures(of.accepted_share, of.kv_read_fraction)
        table.add_row(name, f"{of.mean_accepted:.1f}", *figures, _equality(of))
    return table


def _equality(found: Drafts) -> str:
    if found.equal:
        return "yes"
    return f"to token {found.first_difference}, {'a rounding tie' if found.tie else 'NOT a tie'}"


def _tool_calls(calls: ToolCalls) -> Table:
    table = _table(f"Tool calls: {calls.requests} asked for", "", "valid", "right", "KV read")
    for name, of in (("dense", calls.dense), ("policy", calls.policy)):
        table.add_row(name, *_figures(of.valid, of.right, of.kv_read_fraction))
    return table


def _retrieval(found: SuiteResult) -> Table:
    table = _table("Retrieval: share of the answers found", "task", "tokens", "dense", "policy", "KV read")
    for of in found.retrieval:
        table.add_row(of.task, str(of.length), *_figures(of.dense, of.policy, of.kv_read_fraction))
    return table


def _table(title: str, *columns: str) -> Table:
    from rich.table import Table

    return Table(*columns, title=title, title_justify="left")


def _figures(*values: float) -> list[str]:
    return [f"{value:.3f}" for value in values]
