"""The contract of constrained decoding."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np


class Constraint(ABC):
    """Says which tokens may follow an answer; made for one turn.

    As seen from outside it has no state: what it allows depends on the answer it is given and on nothing
    else. So the decode loops need not know it. A draft asks with tokens that its check may refuse, the
    check asks again from an earlier place, and both are told the same about the same answer.
    """

    @abstractmethod
    def allowed(self, answer: Sequence[int]) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """What may follow.

        Args:
            answer: every token generated so far, each of them allowed at its time.

        Returns:
            ``[vocabulary]`` bool, True somewhere. Where the answer is complete only end tokens are True.

        Raises:
            GrammarError: the answer does not follow the grammar, or the grammar is too complex.
        """
