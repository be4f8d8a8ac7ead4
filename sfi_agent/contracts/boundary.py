"""What a boundary detector is: it says, token by token, when a slow step should come."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import IntFlag
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from torch import Tensor


class TokenFlag(IntFlag):
    """How one vocabulary entry acts on a compiled boundary detector."""

    NONE = 0
    FIRE = 1
    """The step that reads this token is slow."""
    ARM = 2
    """Ends a unit: the first later token with neither ARM nor HOLD fires."""
    HOLD = 4
    """Does not fire an armed detector (a newline after a full stop)."""


class Vocabulary(ABC):
    """What a detector may know of a tokenizer."""

    @cached_property
    @abstractmethod
    def texts(self) -> Sequence[str]:
        """Text of each token id on its own (special tokens included, as written)."""


class BoundaryDetector(ABC):
    """Says, token by token, whether the step that reads the token should be slow.

    A dataclass whose fields are its settings. Override *one* of three:

    * ``flags``, where the token id alone decides: compiled once for each vocabulary into a lookup
      table, so that a GPU loop needs no host synchronisation;
    * ``observe``, where text decides: called once for each token with the text it completed;
    * ``watch``, where the model's own doubt decides: set ``watches``, and it is called once for each
      token with the logits that gave it.

    The runtime makes one object for each turn.
    """

    watches: ClassVar[bool] = False
    """Whether ``watch`` is to be called, instead of ``observe``."""

    reads_text: ClassVar[bool] = True
    """Whether ``observe`` looks at the text; where it does not, it may be called with none."""

    def flags(self, vocabulary: Vocabulary) -> np.ndarray[Any, np.dtype[np.uint8]] | None:
        """``[vocabulary]`` uint8 of :class:`TokenFlag`, or None to be asked by ``observe``."""
        return None

    def observe(self, text: str) -> bool:
        """Whether the step that reads the token just produced should be slow.

        Args:
            text: what the token added, special tokens included; never half a character, so it is
                empty while a character is incomplete.
        """
        raise NotImplementedError(f"{type(self).__name__} overrides neither flags nor observe")

    def watch(self, logits: Tensor) -> bool:
        """Whether the step that reads the token drawn from these logits should be slow.

        Args:
            logits: ``[vocabulary]``, as the model gave them.
        """
        raise NotImplementedError(f"{type(self).__name__} sets watches but has no watch")

    def due(self) -> bool:
        """Whether it fires at the next token, whatever that is: a slow step that is known can begin sooner.

        One that cannot tell says False.
        """
        return False

    def reset(self) -> None:
        """Forget what was observed."""
