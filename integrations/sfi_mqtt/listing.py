"""The sessions of a runtime, for those who ask over the bus."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from sfi_agent.errors import SessionNotFoundError
from sfi_mqtt.answers import Dropped, SessionLine, Sessions
from sfi_mqtt.requests import DropRequest

if TYPE_CHECKING:
    from sfi_agent.runtime.runtime import Runtime


def list_sessions(runtime: Runtime) -> Sessions:
    """Those in memory and those in the store, by id."""
    stored = {info.id: info for info in runtime.store.list()} if runtime.store else {}
    lines = {
        id: SessionLine(id=id, turns=info.turns, tokens=info.tokens, in_memory=False, stored=True)
        for id, info in stored.items()
    }
    for id, session in list(runtime.sessions.items()):
        tokens, known = len(session.tokens), id in stored
        lines[id] = SessionLine(id=id, turns=session.turns, tokens=tokens, in_memory=True, stored=known)
    return Sessions(sessions=[lines[id] for id in sorted(lines)])


def drop_session(runtime: Runtime, request: DropRequest) -> Dropped:
    """Forget a session, and where that is asked what is stored of it.

    Raises:
        SessionError: it cannot be removed from the store.
    """
    runtime.drop_session(request.session)
    if request.stored and runtime.store:
        with suppress(SessionNotFoundError):
            runtime.store.delete(request.session)  # also where it is damaged, and so not listed by its id
    return Dropped(session=request.session)
