"""What an index is: a small code of every key, read at fast steps instead of the keys."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from sfi_agent.contracts.state import Stateful


class KeyIndex(Stateful, ABC):
    """One layer's code of one session's keys, from which a fast step estimates its logits.

    The runtime appends what has left the recent window at each slow step, when those keys are as
    final as the mode makes them, and cuts the code back when the session's history is cut. A session on
    disk holds what :meth:`state` returns; ``restore`` puts it into an index that :meth:`Selector.index`
    has just made. Override both where an attribute has room for keys to come, which nobody wrote yet.
    """

    length: int = 0
    """Positions coded, from 0 on."""

    @abstractmethod
    def append(self, keys: Tensor) -> None:
        """Code the positions that follow ``length``.

        Args:
            keys: ``[H_kv, n, D]`` in the model's dtype.
        """

    @abstractmethod
    def truncate(self, length: int) -> None:
        """Forget the positions from ``length`` on; some before them may go too."""

    @abstractmethod
    def products(self, queries: Tensor, first: int, last: int, positions: Tensor | None = None) -> Tensor:
        """Estimates of ``q . k``, unscaled.

        Args:
            queries: ``[n, H_kv, G, D]``.
            first, last: the stretch of positions to estimate, ``last <= length``.
            positions: ``[H_kv, C]`` int64 in ``[first, last)``: estimate these only.

        Returns:
            ``[n, H_kv, G, last - first]`` (or C) float32.
        """

    @abstractmethod
    def bytes_read(self, positions: int) -> float:
        """Bytes that one :meth:`products` call reads for this many positions, all KV heads."""
