"""Messages of runtimes on a broker, put into a trace."""

from __future__ import annotations

from collections import deque
from datetime import datetime

from pydantic import ValidationError

from sfi_agent.events import Event
from sfi_agent.trace import Recorder
from sfi_mqtt.messages import StatusMessage, adapter
from sfi_mqtt.tail import Shown

REMEMBERED = 2_000
"""Messages among which one that comes twice, after a reconnection, is known."""


class Heard:
    """Hands what is heard to a recorder, each event once.

    Args:
        recorder: takes it.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder, self._adapter = recorder, adapter()
        self._known: deque[tuple[str, int, datetime]] = deque(maxlen=REMEMBERED)

    def take(self, shown: Shown) -> None:
        """Take a message; one that another version or somebody else wrote is passed over."""
        try:
            message = self._adapter.validate_json(shown.json)
        except ValidationError:
            return
        if isinstance(message, StatusMessage):
            self._recorder.model = message.model or self._recorder.model
            return
        mark = shown.runtime, message.sequence, message.time
        if mark not in self._known and isinstance(message, Event):
            self._known.append(mark)
            self._recorder.take(message, shown.runtime)
