"""Where sessions are, on the model's device, in the host's memory or in the store alone, and their moves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from sfi_agent import events
from sfi_agent.runtime.held import HeldSessions
from sfi_agent.runtime.session import Session
from sfi_agent.runtime.sizes import tensor_bytes
from sfi_agent.runtime.stats import MoveCounter, SessionStats, Tier
from sfi_agent.store.keeper import Keeper


class Tiers:
    """Moves sessions, and tells of it.

    Args:
        held: those in memory.
        keeper: writes those that leave it; None: they are forgotten.
        device: tells where the model is.
        moves: takes the events.

    Attributes:
        has_host: whether there is a host's memory beside the device's.
    """

    def __init__(
        self,
        held: HeldSessions,
        keeper: Keeper | None,
        device: Callable[[], torch.device],
        moves: MoveCounter,
    ) -> None:
        self._held, self._keeper, self._device, self._moves = held, keeper, device, moves
        self.has_host = has_host(device())

    def evict(self, session: Session) -> bool:
        """Have an idle session leave memory, for the store if there is one; False if it cannot."""
        began = time.perf_counter()
        with self._held.if_free(session) as free:
            if not free:
                return False
            size = session.parked.nbytes if session.parked else tensor_bytes(session.row)
            if not self._settled(session):
                return False
            self._held.remove(session)
        self._moves.emit(
            events.SessionEvicted(
                session=session.id,
                turn=session.turns,
                bytes=size,
                stored=self._keeper is not None,
                seconds=time.perf_counter() - began,
            )
        )
        return True

    def park(self, session: Session) -> bool:
        """Have an idle session go to the host's memory; False if it cannot.

        What the store lacks stays on the device until it is written, so that nothing parked needs saving.
        """
        with self._held.if_free(session) as free:
            if not free or not self._settled(session):
                return False
            with self._moving(session, "host"):
                session.park()
        return True

    def wake(self, session: Session) -> None:
        """Bring a parked session back; nothing if it is not. The caller holds its lock."""
        if session.parked:
            with self._moving(session, "device"):
                session.wake(self._device())

    def stats(self) -> SessionStats:
        """Where the sessions are, and what moving them has cost."""
        sessions = list(self._held.by_id.values())
        parked = [row.nbytes for session in sessions if (row := session.parked) is not None]
        placed = [size for session in sessions if (size := tensor_bytes(session.row))]
        return self._moves.stats(Tier(len(placed), sum(placed)), Tier(len(parked), sum(parked)))

    def _settled(self, session: Session) -> bool:
        """Whether the store, if there is one, has the session as it is."""
        return self._keeper is None or self._keeper.settled(session)

    @contextmanager
    def _moving(self, session: Session, to: str) -> Iterator[None]:
        began, before = time.perf_counter(), session.parked
        yield
        parked = before or session.parked
        self._moves.emit(
            events.SessionMoved(
                session=session.id,
                turn=session.turns,
                to=to,
                bytes=parked.nbytes if parked else 0,
                seconds=time.perf_counter() - began,
            )
        )


def has_host(device: torch.device) -> bool:
    """Whether the memory of ``device`` is not the host's own."""
    return device.type != "cpu"
