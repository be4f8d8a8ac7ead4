"""Which sessions stay in memory: under a limit, the least recently used leave first."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sfi_agent.errors import PromptError, SettingError, TurnTimeoutError
from sfi_agent.runtime.kv import BLOCK, ROOM
from sfi_agent.runtime.session import Session

OVERHEAD = 1.5
"""Bytes of a session over those of its keys and values, until one was measured."""


@dataclass(frozen=True)
class Limits:
    """What the sessions of a runtime may take together. A limit of None is none.

    Looked at when a turn begins and when it ends: no thread watches them in between.

    Attributes:
        bytes: of keys, values, indexes and memories; a running turn counts with what it may grow to.
        sessions: that stay in memory between turns.
        idle_seconds: after which a session that nobody uses leaves.
    """

    bytes: int | None = None
    sessions: int | None = None
    idle_seconds: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and value <= 0:
                raise SettingError(f"limits: {name} must be above 0 (given {value!r})")


@dataclass(frozen=True)
class _Known:
    """A session in memory: when it was last used (monotonic seconds), and its bytes then."""

    used: float
    size: int


class Residency:
    """Admits turns, and has idle sessions leave to make room for them.

    Args:
        limits: to keep.
        sessions: those in memory, by id.
        evict: has a session leave memory; False if it cannot now.
        token_bytes: of one position's keys and values in all layers, as far as it is known.
    """

    def __init__(
        self,
        limits: Limits,
        sessions: Mapping[str, Session],
        evict: Callable[[Session], bool],
        token_bytes: int,
    ) -> None:
        self._limits, self._sessions, self._evict = limits, sessions, evict
        self._rate = OVERHEAD * token_bytes
        self._measured = False
        self._changed = threading.Condition()
        self._reserved: list[tuple[str | None, int]] = []
        self._known: dict[str, _Known] = {}

    @property
    def nbytes(self) -> int:
        """What the sessions take, running turns as they may grow to."""
        running = {id for id, _ in self._reserved}
        idle = (id for id in self._known if id not in running and id in self._sessions)
        return sum(self._known[id].size for id in idle) + sum(size for _, size in self._reserved)

    @contextmanager
    def admitted(self, session: str | None, tokens: int, timeout: float | None) -> Iterator[None]:
        """Room for a turn of ``session`` that reaches at most ``tokens`` tokens; waits until there is.

        Raises:
            PromptError: it would not fit if nothing else were there.
            TurnTimeoutError: other turns took the room for ``timeout`` seconds.
        """
        turn = session, self._expected(tokens)
        if self._limits.bytes is not None and turn[1] > self._limits.bytes:
            fit = max(0, int(self._limits.bytes / self._rate) - ROOM - BLOCK)
            raise PromptError(
                f"a turn of up to {tokens} tokens may take {turn[1]:,} bytes, but all sessions together have "
                f"{self._limits.bytes:,}; {fit} tokens would fit: shorten the prompt or ask for fewer tokens"
            )
        with self._changed:
            if not self._changed.wait_for(lambda: self._make_room(turn), timeout):
                raise TurnTimeoutError(
                    "other turns took all the memory that sessions may have until this one passed its "
                    "deadline; allow more time, or raise the runtime's limit"
                )
            self._reserved.append(turn)
        try:
            yield
        finally:
            with self._changed:
                self._reserved.remove(turn)
                self.touched(session)
                self._changed.notify_all()

    def _expected(self, tokens: int) -> int:
        """Bytes of a session of so many tokens, with the capacity that it has or grows to."""
        return int(self._rate * (tokens + max(ROOM, tokens // 8) + BLOCK))

    def _make_room(self, turn: tuple[str | None, int]) -> bool:
        """Evict until the turn fits; False while what is left cannot leave."""
        self._leave_idle()
        session, size = turn
        while not self._fits(session, size):
            if not self._evict_one(but=session):
                return False
        return True

    def _fits(self, session: str | None, size: int) -> bool:
        running = any(id == session for id, _ in self._reserved)
        own = self._known[session].size if session in self._known and not running else 0
        return self._limits.bytes is None or self.nbytes - own + size <= self._limits.bytes

    def touched(self, session: str | None) -> None:
        """A session was used: learn from its size, and keep the limits."""
        with self._changed:
            if session is not None and (held := self._sessions.get(session)) is not None:
                self._known[session] = _Known(time.monotonic(), self._learned(held))
            self._leave_idle()
            while self._over() and self._evict_one():
                pass

    def _learned(self, session: Session) -> int:
        """The session's bytes; those of a position are remembered where it is long enough to tell."""
        size, capacity = tensor_bytes(session.row), session.row.kv.capacity
        if capacity > BLOCK:
            self._rate = max(self._rate, size / capacity) if self._measured else size / capacity
            self._measured = True
        return size

    def _over(self) -> bool:
        count, most = len(self._sessions), self._limits.sessions
        return (most is not None and count > most) or not self._fits(None, 0)

    def _leave_idle(self) -> None:
        if (seconds := self._limits.idle_seconds) is not None:
            before = time.monotonic() - seconds
            for id in [id for id, known in self._known.items() if known.used < before]:
                self._leave(id)

    def _evict_one(self, but: str | None = None) -> bool:
        """Have the least recently used session leave that can."""
        oldest = sorted(self._known, key=lambda id: self._known[id].used)
        return any(self._leave(id) for id in oldest if id != but)

    def _leave(self, id: str) -> bool:
        held = self._sessions.get(id)
        if held is not None and (any(id == of for of, _ in self._reserved) or not self._evict(held)):
            return False
        del self._known[id]
        return held is not None


def tensor_bytes(holder: Any) -> int:
    """Bytes of all tensors reachable from an object, each storage once."""
    storages: dict[int, int] = {}
    seen: set[int] = set()

    def visit(part: Any) -> None:
        if isinstance(part, Tensor):
            storage = part.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        elif id(part) in seen:
            return
        elif isinstance(part, dict):
            seen.add(id(part))
            for value in part.values():
                visit(value)
        elif isinstance(part, list | tuple | set):
            seen.add(id(part))
            for value in part:
                visit(value)
        elif dataclasses.is_dataclass(part) or type(part).__module__.partition(".")[0] not in _PLAIN:
            seen.add(id(part))
            visit(getattr(part, "__dict__", {}))

    visit(holder)
    return sum(storages.values())


_PLAIN = frozenset({"builtins", "torch", "numpy"})
"""Packages whose objects hold no session's tensors but as tensors."""
