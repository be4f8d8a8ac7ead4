"""The decode loops. Each is a generator: it yields the work of its next step and receives its outcome."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from sfi_agent.policy import Mode
from sfi_agent.runtime.step import NOT_MADE, Outcome, Predicted, Work

if TYPE_CHECKING:
    from sfi_agent.runtime.turn import Turn

Steps = Generator[Work, Outcome, None]


def prefill(turn: Turn, **last: bool) -> Generator[Work, Outcome, Predicted]:
    """Read the part of the prompt that the session does not hold; returns what follows its last token.

    ``last`` are facts of the last chunk's work.
    """
    outcome = None
    while turn.row.kv.length < len(turn.prompt):
        outcome = yield turn.chunk(**last)
        turn.prefilled()
    assert outcome is not None  # a session never holds the whole prompt
    return outcome[-1]


def dense(turn: Turn) -> Steps:
    """Full attention at every step."""
    predicted = yield from prefill(turn, goes_on=turn.goes_on())
    while (token := turn.emit(predicted)) is not None:
        predicted = (yield turn.step(token, goes_on=turn.goes_on()))[-1]


def sfi(turn: Turn) -> Steps:
    """Fast steps over the sparse memory; slow ones at boundaries, which refresh it (arXiv 2603.12038)."""
    predicted = yield from prefill(turn, refreshes=turn.goes_on())
    turn.refresh()
    while (token := turn.emit(predicted)) is not None:
        if turn.row.memory is not None and not turn.boundary:
            work = turn.step(token, fast=True, goes_on=turn.goes_on(), slow_next=turn.slow_next())
            predicted = (yield work)[-1]
        else:
            predicted = (yield turn.step(*turn.unrepaired(), refreshes=turn.goes_on()))[-1]
            turn.refresh()


def verified(turn: Turn) -> Steps:
    """Fast steps draft; a dense pass keeps what dense attention would have produced."""
    predicted = yield from prefill(turn)
    token = turn.emit(predicted)
    while token is not None:
        if not (draft := (yield from _draft(turn, token))):
            goes_on = turn.parts.limit.pausing and turn.goes_on()
            token = turn.emit((yield turn.step(token, goes_on=goes_on))[-1])
            continue
        start, read = turn.row.kv.length, (token, *draft)
        try:
            token = turn.verify(draft, (yield turn.step(*read, wanted=len(read))))
        finally:  # however it ended: what the answer does not have is forgotten
            turn.row.truncate(start + turn.agreed(start, read))


def _draft(turn: Turn, token: int) -> Generator[Work, Outcome, tuple[int, ...]]:
    """Tokens that fast steps propose after ``token``; the row is left as it was.

    At a boundary the draft would do: it goes on while others are made that it is verified with.
    """
    if not (room := turn.draft_room()):
        return ()
    start, draft, trial, done = turn.row.kv.length, [token], None, False
    try:
        for left in reversed(range(room)):
            step = turn.step(draft[-1], fast=True, goes_on=left > 0, drafted=tuple(draft), spare=done)
            outcome = yield step
            if outcome is NOT_MADE:
                break
            trial = trial or turn.fork()  # while the second step runs, where it was launched ahead
            draft.append(turn.propose(outcome[-1], draft))
            if draft[-1] in trial.stop_tokens:
                break
            done = trial.ends(draft[-1], outcome[-1].logits) or done
    finally:
        turn.row.truncate(start, kept=True)
    return tuple(draft[1:])


LOOPS = {"dense": dense, "sfi": sfi, "verified": verified}
assert set(LOOPS) == set(Mode.__args__)  # type: ignore[attr-defined]
