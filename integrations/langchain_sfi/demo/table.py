"""The table at the end of the demo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

NOTHING = "–"
HEADINGS = ("tokens/s", "slow", "fast", "KV read", "first token", "turn 2")
CAPTION = (
    "slow, fast: decode steps over everything, over the sparse memory; first token: of turn 1 and of turn 2; "
    "the memory is that of policy {policy}"
)


@dataclass(frozen=True)
class Steps:
    """Decode steps of a turn and the KV bytes they read, over what dense decoding reads."""

    slow: int
    fast: int
    kv_read_fraction: float


@dataclass(frozen=True)
class TimedTurn:
    """A turn's length and times.

    Attributes:
        tokens: length of the answer.
        first_token_seconds: from the call to the first token.
        tokens_per_second: tokens after the first over the time for them; 0 if there were none.
        steps: how it was decoded; None where transformers did it.
    """

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


def comparison(rows: Sequence[Row], policy: str) -> Table:
    """The rows as a table; ``policy`` names the sparse memory of ``sfi`` and ``verified``."""
    table = Table(
        title="the same two turns, greedy",
        caption=CAPTION.format(policy=policy),
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("", no_wrap=True)
    for heading in HEADINGS:
        table.add_column(heading, justify="right")
    for row in rows:
        first = (f"{turn.first_token_seconds:.1f} s" for turn in row.turns)
        table.add_row(row.name, f"{row.tokens_per_second:.1f}", *row.steps, *first)
    return table
