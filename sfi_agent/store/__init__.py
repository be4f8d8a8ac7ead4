"""Sessions on disk: what a conversation needs to go on in another process as if it had never stopped.

``docs/explanation/sessions.md`` describes the format and what it guarantees.
"""

from sfi_agent.store.info import SessionInfo
from sfi_agent.store.store import SessionStore

__all__ = ["SessionInfo", "SessionStore"]
