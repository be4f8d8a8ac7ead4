"""What fast steps of a row in pages attend to: one object for all of the model's layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sfi_agent.contracts import Coding, Lists
from sfi_agent.runtime.kv import visible


@dataclass
class Remembered(ABC):
    """To what a kernel attends through the row's lane, in every full-attention layer.

    Attributes:
        tail: first recent position.
        windows: of the model's layers, tokens; None: full attention.
        position_bytes: of one position's key and value in one layer.
    """

    tail: int
    windows: tuple[int | None, ...]
    position_bytes: int

    @property
    @abstractmethod
    def positions(self) -> int:
        """Sink and selected ones that an average KV head is given room for, in one layer."""

    @property
    @abstractmethod
    def used(self) -> float:
        """Sink and selected positions of an average KV head, summed over the layers."""

    def bytes_read(self, length: int, tokens: int) -> float:
        """KV and code bytes that the last ``tokens`` of a context of ``length`` read, one a step."""
        full = tokens * self.used + self.windows.count(None) * recent(self.tail, length, tokens)
        sliding = [window for window in self.windows if window is not None]
        return (full + visible(sliding, length - tokens, length)) * self.position_bytes


class Fetched:
    """A number on its way from the device: whoever reads it waits for that, not for what was begun later.

    Args:
        number: one element.
    """

    def __init__(self, number: Tensor) -> None:
        on_gpu = number.is_cuda
        self._here = torch.empty_like(number, device="cpu", pin_memory=on_gpu).copy_(
            number, non_blocking=True
        )
        self._done = torch.cuda.Event() if on_gpu else None  # type: ignore[no-untyped-call]
        if self._done:
            self._done.record()

    def number(self) -> float:
        """The number, once it is here."""
        if self._done:
            self._done.synchronize()
        return float(self._here)


@dataclass
class Listed(Remembered):
    """Positions chosen at the last slow step.

    Attributes:
        places: ``[layers, H_kv, S]`` int32, ``PAGE * page + slot``; -1 is passed over.
        kept: how many places there are.
    """

    places: Tensor
    kept: Fetched

    @property
    def positions(self) -> int:
        return self.places.shape[2]

    @cached_property
    def used(self) -> float:
        return self.kept.number() / self.places.shape[1]

    def lists(self) -> dict[int, Lists]:
        """Of each full-attention layer, for one row."""
        full = [layer for layer, window in enumerate(self.windows) if window is None]
        counts = self.places.new_full((1, self.places.shape[1]), self.positions)
        return {layer: Lists(self.places[layer, None], counts) for layer in full}


@dataclass
class Chosen(Remembered):
    """Positions that a kernel chooses anew at every step, by the codes in the row's pages.

    The candidates are those between the sink and ``tail``.

    Attributes:
        coding: of the codes.
        sink: first positions, always remembered.
        count: positions for each KV head, on average.
        code_bytes: that one choice reads in one layer.
    """

    coding: Coding
    sink: int
    count: int
    code_bytes: float

    @property
    def positions(self) -> int:
        return self.sink + self.count

    @property
    def used(self) -> float:
        return self.windows.count(None) * self.positions

    def bytes_read(self, length: int, tokens: int) -> float:
        codes = tokens * self.windows.count(None) * self.code_bytes
        return super().bytes_read(length, tokens) + codes

    def most(self, kv_heads: int) -> int:
        """Positions that one head may be given, the sink's and all."""
        return self.sink + min(self.count * kv_heads, self.tail - self.sink)


def recent(tail: int, length: int, tokens: int) -> float:
    """Positions from ``tail`` on that the last ``tokens`` of ``length`` see, summed over them."""
    return tokens * (length - tail) - tokens * (tokens - 1) / 2
