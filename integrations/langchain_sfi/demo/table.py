"""The table at the end of the demo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Self

from rich.table import Table

from langchain_sfi.demo.baseline import TimedTurn

NOTHING = "–"


@dataclass(frozen=True)
class Row:
    """One way of running the two turns; pairs are (turn 1, turn 2), None where it does not apply.

    Attributes:
        name: ``transformers`` or the mode.
        texts: the answers.
        first_token_seconds: time to the first token.
        tokens_per_second: decode speed over both turns.
        slow_steps: decode steps over everything, both turns; ``fast_steps``: over the sparse memory.
        kv_read_fraction: KV bytes read by the decode steps, over what dense reads.
    """

    name: str
    texts: tuple[str, str]
    first_token_seconds: tuple[float, float]
    tokens_per_second: float
    slow_steps: int | None = None
    fast_steps: int | None = None
    kv_read_fraction: float | None = None

    @classmethod
    def of_answers(cls, mode: str, answers: Sequence[tuple[str, Mapping[str, Any]]]) -> Self:
        """From two answers of a chat model: (text, response metadata)."""
        first, second = (metadata for _, metadata in answers)
        return cls(
            mode,
            (answers[0][0], answers[1][0]),
            (first["first_token_seconds"], second["first_token_seconds"]),
            _mean(first["decode_tokens_per_second"], second["decode_tokens_per_second"]),
            first["slow_steps"] + second["slow_steps"],
            first["fast_steps"] + second["fast_steps"],
            (first["kv_read_fraction"] + second["kv_read_fraction"]) / 2,
        )

    @classmethod
    def of_transformers(cls, turns: Sequence[TimedTurn]) -> Self:
        """From two turns of ``generate``."""
        first, second = turns
        return cls(
            "transformers",
            (first.text, second.text),
            (first.first_token_seconds, second.first_token_seconds),
            _mean(first.tokens_per_second, second.tokens_per_second),
        )


def comparison(rows: Sequence[Row]) -> Table:
    """The rows as a table."""
    table = Table(title="the same two turns, greedy", title_justify="left")
    table.add_column("")
    for heading in ("tokens/s", "slow steps", "fast steps", "KV read", "first token 1", "first token 2"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            row.name,
            f"{row.tokens_per_second:.1f}",
            _count(row.slow_steps),
            _count(row.fast_steps),
            NOTHING if row.kv_read_fraction is None else f"{row.kv_read_fraction:.0%}",
            *(f"{seconds:.1f} s" for seconds in row.first_token_seconds),
        )
    return table


def verdict(rows: Sequence[Row]) -> str:
    """Whether verified mode answered as dense attention does."""
    texts = {row.name: row.texts for row in rows}
    for turn, (verified, dense) in enumerate(zip(texts["verified"], texts["dense"], strict=True), start=1):
        if verified != dense:
            same = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(verified, dense, strict=False))))
            return (
                f"verified equals dense: no, turn {turn} differs after {same} characters "
                f"({verified[same : same + 20]!r}, dense {dense[same : same + 20]!r}); below float32 a pass "
                "over many tokens rounds otherwise than one over a single token, which may turn a near tie"
            )
    return "verified equals dense: yes, in both turns"


def _mean(first: float, second: float) -> float:
    """Mean of two speeds; an answer of one token has none."""
    speeds = [speed for speed in (first, second) if speed]
    return sum(speeds) / len(speeds) if speeds else 0.0


def _count(steps: int | None) -> str:
    return NOTHING if steps is None else str(steps)
