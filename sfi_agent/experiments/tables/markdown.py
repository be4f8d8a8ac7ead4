"""Markdown that tables are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

FOLDED_ROWS = 8
"""A table with more rows is folded away."""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the first column to the left, the others to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def titled(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table under a title, folded away when it is long."""
    if len(rows) <= FOLDED_ROWS:
        return f"**{title}**\n\n{table(head, rows)}"
    return f"<details>\n<summary>{title} ({len(rows)} rows)</summary>\n\n{table(head, rows)}\n\n</details>"


def number(value: float | None, digits: int = 3) -> str:
    """With this many digits behind the point; a dash for None."""
    return "–" if value is None else f"{value:.{digits}f}"


def best(values: Sequence[float | None], digits: int = 3) -> list[str]:
    """The values as text, the highest (as shown) in bold."""
    shown = [number(value, digits) for value in values]
    known = [text for text, value in zip(shown, values, strict=True) if value is not None]
    top = max(known, key=float, default=None)
    return [f"**{text}**" if text == top and len(known) > 1 else text for text in shown]
