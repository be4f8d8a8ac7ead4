"""How long to wait, before the next attempt to connect say."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass

from sfi_agent.errors import SettingError


@dataclass(frozen=True)
class Backoff:
    """Doubling delays, each shortened at random so that many clients do not return in step.

    Attributes:
        first: seconds after the first failure, at most.
        most: seconds that no delay exceeds.
    """

    first: float = 0.5
    most: float = 30.0

    def __post_init__(self) -> None:
        if not 0 < self.first <= self.most:
            raise SettingError(
                f"backoff: needs 0 < first <= most (given first={self.first!r}, most={self.most!r})"
            )

    def delay(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row: between half and all of the doubled delay."""
        ceiling = min(self.most, self.first * 2.0 ** min(failures, 64))
        return random.uniform(ceiling / 2, ceiling)


def bounded(name: str, seconds: float) -> float:
    """Seconds to wait, no more than a lock can (infinity is fine); SettingError where they are no number."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds >= 0:
        raise SettingError(f"{name}: must be 0 or more seconds (given {seconds!r})")
    return float(min(seconds, threading.TIMEOUT_MAX))
