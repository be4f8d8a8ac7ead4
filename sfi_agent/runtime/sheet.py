"""What a captured step is sent: its rows' tokens and what is known of each, as one stretch of numbers."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, Generic, TypeVar

import numpy as np
from torch import Tensor

from sfi_agent.contracts.drawing import NUMBERS

FACTS = 10
"""Numbers of a row that its lane has: length, tail, start, stop, wanted, share, and its ring's four."""
ALIGNED = 32
"""Parts begin at multiples of so many numbers, so that kernels may load many at a time."""

Side = TypeVar("Side", "np.ndarray[Any, Any]", Tensor)


@dataclass(frozen=True)
class Sheet(Generic[Side]):
    """The parts of such a stretch, on the host or on the device: views of it.

    Attributes:
        flat: the whole, int32.
        tokens: ``[T]``, row after row, those that only fill the step behind them. One that the step before
            chose is named by its place there, as -1 less that.
        positions: ``[T]`` of them.
        owners: ``[T]``, whose they are; R: no row's.
        firsts: ``[R + 1]``, each row's first token, and the number of all.
        wanted: ``[F]``, tokens of which logits are wanted, row after row; behind them any.
        facts: ``[FACTS, R]``.
        draws: ``[R + 1, NUMBERS]``, how each row's tokens are drawn; the last, of those of no row, is zeros.
        tables: ``[R, pages]``.
    """

    flat: Side
    tokens: Side
    positions: Side
    owners: Side
    firsts: Side
    wanted: Side
    facts: Side
    draws: Side
    tables: Side

    @classmethod
    def of(cls, flat: Side, rows: int, tokens: int, found: int, pages: int) -> Sheet[Side]:
        """Of ``flat``, with :meth:`size` numbers: of so many rows, tokens, logits, and pages of a row."""
        parts, begin = [], 0
        for shape in _shapes(rows, tokens, found, pages):
            parts.append(flat[begin : begin + prod(shape)].reshape(*shape))
            begin += _room(shape)
        return cls(flat, *parts)

    @staticmethod
    def size(rows: int, tokens: int, found: int, pages: int) -> int:
        """Numbers of the whole."""
        return sum(map(_room, _shapes(rows, tokens, found, pages)))


def _shapes(rows: int, tokens: int, found: int, pages: int) -> list[tuple[int, ...]]:
    each = (tokens,)
    return [each, each, each, (rows + 1,), (found,), (FACTS, rows), (rows + 1, NUMBERS), (rows, pages)]


def _room(shape: tuple[int, ...]) -> int:
    return -(-prod(shape) // ALIGNED) * ALIGNED
