"""Lines as units: for code, lists and logs, which have few sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sfi_agent.contracts import BoundaryDetector, TokenFlag, Vocabulary


@dataclass
class NewlineDetector(BoundaryDetector):
    """Fires on a token that contains a newline: the step that reads it is slow."""

    def flags(self, vocabulary: Vocabulary) -> np.ndarray[Any, np.dtype[np.uint8]]:
        fire = [TokenFlag.FIRE if "\n" in text else TokenFlag.NONE for text in vocabulary.texts]
        return np.array(fire, dtype=np.uint8)
