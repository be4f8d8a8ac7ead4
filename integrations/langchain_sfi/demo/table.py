"""The table at the end of the demo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from rich.table import Table

NOTHING = "–"
HEADINGS = ("tokens/s", "slow", "fast", "KV read", "first token", "turn 2")
CAPTION = (
    "slow, fast: decode steps over everything, over the sparse memory; first token: of turn 1 and of turn 2"
)


@dataclass(frozen=True)
class Steps:
    """Decode steps of a turn and the KV bytes they read, over what dense decoding reads."""

    slow: int
    fast: int
    kv_read_fraction: float


@dataclass(frozen=True)
class TimedTurn:
    """An answer and its times.

    Attributes:
        text: the answer.
        tokens: its length.
        first_token_seconds: from the call to the first token.
        tokens_per_second: tokens after the first over the time for them; 0 if there were none.
        steps: how it was decoded; None where transformers did it.
    """

    text: str
    tokens: int
    first_token_seconds: float
    tokens_per_second: float
    steps: Steps | None = None

    @property
    def decode_seconds(self) -> float:
        """Time for the tokens after the first."""
        return (self.tokens - 1) / self.tokens_per_second if self.tokens_per_second else 0.0


@dataclass(frozen=True)
class Row:
    """One way of running the turns: ``transformers`` or a mode."""

    name: str
    turns: tuple[TimedTurn, ...]

    @property
    def tokens_per_second(self) -> float:
        """Decode speed over all turns."""
        seconds = sum(turn.decode_seconds for turn in self.turns)
        return sum(turn.tokens - 1 for turn in self.turns) / seconds if seconds else 0.0

    @property
    def steps(self) -> tuple[str, str, str]:
        """Slow steps, fast steps and share of KV read, as shown."""
        steps = [turn.steps for turn in self.turns if turn.steps]
        if not steps:
            return NOTHING, NOTHING, NOTHING
        tokens = [max(turn.tokens - 1, 1) for turn in self.turns]
        read = sum(s.kv_read_fraction * n for s, n in zip(steps, tokens, strict=True)) / sum(tokens)
        return str(sum(s.slow for s in steps)), str(sum(s.fast for s in steps)), f"{read:.0%}"


def comparison(rows: Sequence[Row]) -> Table:
    """The rows as a table."""
    table = Table(
        title="the same two turns, greedy", caption=CAPTION, title_justify="left", caption_justify="left"
    )
    table.add_column("", no_wrap=True)
    for heading in HEADINGS:
        table.add_column(heading, justify="right")
    for row in rows:
        first = (f"{turn.first_token_seconds:.1f} s" for turn in row.turns)
        table.add_row(row.name, f"{row.tokens_per_second:.1f}", *row.steps, *first)
    return table


def verdict(rows: Sequence[Row]) -> str:
    """Whether verified mode answered as dense attention does."""
    turns = {row.name: row.turns for row in rows}
    for number, (verified, dense) in enumerate(zip(turns["verified"], turns["dense"], strict=True), start=1):
        if verified.text != dense.text:
            same = _common(verified.text, dense.text)
            ours, theirs = verified.text[same : same + 20], dense.text[same : same + 20]
            return (
                f"verified equals dense: no, turn {number} has {ours!r} for {theirs!r} after {same} "
                "characters (below float32 a pass over many tokens rounds otherwise than one over a single "
                "token, which can turn a near tie)"
            )
    return "verified equals dense: yes, in both turns"


def _common(first: str, second: str) -> int:
    """Length of the common beginning."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))
