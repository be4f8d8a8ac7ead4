"""The decode loops. Each is a generator: it yields the work of its next step and receives the logits."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from torch import Tensor

from sfi_agent.policy import Mode
from sfi_agent.runtime.step import Work

if TYPE_CHECKING:
    from sfi_agent.runtime.turn import Turn

Steps = Generator[Work, Tensor, None]


def prefill(turn: Turn) -> Generator[Work, Tensor, Tensor]:
    """Read the part of the prompt that the session does not hold; returns the last token's logits."""
    row, prompt = turn.row, turn.prompt
    logits = None
    while row.kv.length < len(prompt):
        end = turn.chunk_end()
        tokens = tuple(prompt[row.kv.length : end])
        logits = yield Work(tokens, wanted=int(end == len(prompt)), prefill=True)
        turn.prefilled()
    assert logits is not None  # a session never holds the whole prompt
    return logits[-1]


def dense(turn: Turn) -> Steps:
    """Full attention at every step."""
    logits = yield from prefill(turn)
    while (token := turn.emit(logits)) is not None:
        logits = (yield Work((token,)))[-1]


def sfi(turn: Turn) -> Steps:
    """Fast steps over the sparse memory; slow ones at boundaries, which refresh it (arXiv 2603.12038)."""
    logits = yield from prefill(turn)
    turn.refresh()
    while (token := turn.emit(logits)) is not None:
        if turn.row.memory is not None and not turn.boundary:
            logits = (yield Work((token,), fast=True))[-1]
        else:
            logits = (yield Work(turn.unrepaired()))[-1]
            turn.refresh()


def verified(turn: Turn) -> Steps:
    """Fast steps draft; a dense pass keeps what dense attention would have produced."""
    logits = yield from prefill(turn)
    token = turn.emit(logits)
    while token is not None:
        start = turn.row.kv.length
        draft = yield from _draft(turn, token)
        passed = yield Work((token, *draft), wanted=1 + len(draft))
        accepted, token = turn.verify(draft, passed)
        turn.row.truncate(start + 1 + accepted)


def _draft(turn: Turn, token: int) -> Generator[Work, Tensor, tuple[int, ...]]:
    """Tokens that fast steps propose after ``token``; the row is left as it was."""
    start, draft, trial = turn.row.kv.length, [token], turn.fork()
    try:
        for _ in range(turn.draft_room()):
            logits = (yield Work((draft[-1],), fast=True))[-1]
            draft.append(turn.propose(logits, draft))
            if trial.ends(draft[-1], logits):
                break
    finally:
        turn.row.truncate(start)
    return tuple(draft[1:])


LOOPS = {"dense": dense, "sfi": sfi, "verified": verified}
assert set(LOOPS) == set(Mode.__args__)  # type: ignore[attr-defined]
