"""What a connection has to say, and who hears what comes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sfi_mqtt.headers import Message


class Source:
    """Says nothing and hears nothing; override what is needed. Used from the connection's thread."""

    def will(self) -> Message | None:
        """What the broker is to publish when the connection breaks."""
        return None

    def hello(self) -> Message | None:
        """What comes first on every connection, once its topics are subscribed."""
        return None

    def goodbye(self) -> Message | None:
        """What comes last before a connection is closed on purpose."""
        return None

    def topics(self) -> Sequence[str]:
        """What to subscribe to."""
        return ()

    def received(self, message: Message) -> None:
        """A message came; must not block."""

    def connected(self) -> None:
        """A connection is up."""

    def failed(self) -> None:
        """An attempt to connect failed, or the connection broke."""

    def take(self, limit: int) -> Sequence[Any]:
        """The next units to publish, at most ``limit``."""
        return ()

    def messages(self, unit: Any) -> Sequence[Message]:
        """The messages of a unit, in order; when the last, of QoS 1, is acknowledged, all have arrived."""
        return ()

    def refused(self, unit: Any, why: str) -> None:
        """A unit cannot be published on this broker, now or later: a message of it is too large. None was."""

    def give_back(self, units: Sequence[Any]) -> None:
        """Take back units that were not published for certain: they are the next again."""
