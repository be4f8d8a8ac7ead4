"""How a turn comes to its sparse memory: chosen when its loop asks, or early, behind the step before that."""

from __future__ import annotations

import time
from typing import NamedTuple

from sfi_agent.policy import Policy
from sfi_agent.runtime import memory
from sfi_agent.runtime.parts import Parts
from sfi_agent.runtime.row import Row
from sfi_agent.runtime.sparse import SparseMemory


class Choice(NamedTuple):
    """The sparse memory that a selector chose, KV bytes read for that, and seconds."""

    memory: SparseMemory | None
    read: float
    seconds: float


class MemoryChoice:
    """Has the selector choose.

    Args:
        row: whose memory.
        policy: of the turn.
        parts: that it names.
        saw: told of what was chosen.
    """

    def __init__(self, row: Row, policy: Policy, parts: Parts, saw: memory.Saw | None) -> None:
        self._row, self._policy, self._parts, self._saw = row, policy, parts, saw
        self._early: Choice | None = None

    def early(self) -> None:
        """Choose before :meth:`made` is asked: the row is as it will be then."""
        self._early = self._chosen()

    def made(self) -> Choice:
        """What was chosen early, if the row still has that; otherwise what is chosen now."""
        found, self._early = self._early, None
        if found is None or found.memory is None or found.memory is not self._row.memory:
            found = self._chosen()
        return found

    def _chosen(self) -> Choice:
        began, parts = time.perf_counter(), self._parts
        try:
            read = memory.refresh(self._row, self._policy, parts.selector, parts.kernel, self._saw)
        except Exception as error:
            error.add_note(f"raised while selector {self._policy.selector!r} chose the memory")
            raise
        return Choice(self._row.memory, read, time.perf_counter() - began)
