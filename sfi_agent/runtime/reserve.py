"""Pages that turns were promised when they were let in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sfi_agent.contracts import PAGE
from sfi_agent.errors import PromptError
from sfi_agent.runtime.pages import PagedCache
from sfi_agent.runtime.pool import PagePool
from sfi_agent.runtime.row import Row
from sfi_agent.runtime.session import Session


@dataclass(eq=False)
class Admitted:
    """A turn that was let in, and what it may grow to.

    Attributes:
        session: its id; None: it has none.
        bytes: on the device, at most.
        tokens: that its context is expected to reach.
        kv: where they go; None before it began, and where that is no pool.
        made: ids of sessions that it left in memory beside its own.
    """

    session: str | None
    bytes: int = 0
    tokens: int = 0
    kv: PagedCache | None = None
    made: tuple[str, ...] = ()

    def begun(self, row: Row) -> None:
        """It has its row: what that holds, shared with others or not, it needs no more."""
        self.kv = row.kv if isinstance(row.kv, PagedCache) else None


class PageReserve:
    """A pool's free pages, and the turns that may still take them.

    Args:
        pool: of the pages.
        sessions: those in memory, by id.
    """

    def __init__(self, pool: PagePool, sessions: Mapping[str, Session]) -> None:
        self._pool, self._sessions = pool, sessions

    def check(self, tokens: int) -> None:
        """Refuse a turn that would not fit if nothing else were there.

        Raises:
            PromptError: it would not.
        """
        if tokens > self._pool.tokens:
            raise PromptError(
                f"a turn of up to {tokens} tokens is more than the memory for keys and values can hold; "
                f"{self._pool.tokens} tokens would fit: shorten the prompt or ask for fewer tokens, or give "
                "the runtime more of it (kv_bytes)"
            )

    def fits(self, turns: Iterable[Admitted], gone: Iterable[str] = ()) -> bool:
        """Whether the free pages, and those of sessions that are ``gone``, suffice for these turns."""
        return sum(map(self._missing, turns)) <= self._pool.free + sum(map(self._own, gone))

    def _missing(self, turn: Admitted) -> int:
        if turn.kv is not None:
            return turn.kv.missing(turn.tokens)
        own = self._own(turn.session)  # it may turn out to begin otherwise than others do
        return max(0, -(-turn.tokens // PAGE) - own)

    def _own(self, id: str | None) -> int:
        session = self._sessions.get(id) if id is not None else None
        kv = session.row.kv if session else None
        return kv.own if isinstance(kv, PagedCache) else 0
