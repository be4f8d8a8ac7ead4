"""What an answer calls, told as events while it comes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing

from sfi_agent import events, tools
from sfi_agent.runtime.result import Chunk
from sfi_agent.runtime.session import Session


def telling(
    answer: Generator[Chunk, None, None],
    parser: tools.Parser,
    session: Session,
    emit: Callable[[events.Event], None],
) -> Generator[Chunk, None, None]:
    """The answer's chunks; each call that ends in one is told before it."""
    with closing(answer):
        for chunk in answer:
            _tell(parser.feed(chunk.text), session, emit)
            yield chunk
    _tell(parser.finish(), session, emit)


def _tell(found: Sequence[tools.Event], session: Session, emit: Callable[[events.Event], None]) -> None:
    for part in found:
        if isinstance(part, tools.CallFinished | tools.CallInvalid):
            emit(
                events.ToolCallFound(
                    session=session.id,
                    turn=session.turns,
                    index=part.index,
                    name=part.name or "",
                    valid=isinstance(part, tools.CallFinished),
                )
            )
