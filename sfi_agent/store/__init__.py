"""Sessions on disk: what a conversation needs to go on in another process as if it had never stopped.

``docs/explanation/sessions.md`` describes the format and what it guarantees.
"""

from sfi_agent.store.store import SessionInfo, SessionStore

__all__ = ["SessionInfo", "SessionStore"]
