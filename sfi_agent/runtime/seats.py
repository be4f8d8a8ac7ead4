"""Where a lane's rows sit: the places that they remember, in buffers that captured steps read."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import torch

from sfi_agent.contracts import Lists
from sfi_agent.runtime.asked import RowAsk
from sfi_agent.runtime.remembered import Listed, Remembered


class Seats:
    """Lists of a lane's rows, which all steps of as many rows and places share.

    Args:
        layers, heads: of the model's keys.
        rows: of a lane.
        listed: places that a head may have listed.
        device: the model's.

    Attributes:
        lists: of each layer.
    """

    def __init__(self, layers: int, rows: int, heads: int, listed: int, device: torch.device) -> None:
        self._places = torch.zeros(layers, rows, heads, listed, dtype=torch.int32, device=device)
        self._counts = torch.zeros(layers, rows, heads, dtype=torch.int32, device=device)
        self._held: list[weakref.ref[Remembered] | None] = [None] * rows  # its session may end
        each = zip(self._places, self._counts, strict=True)
        self.lists = {layer: Lists(*lists) for layer, lists in enumerate(each)}

    def order(self, asks: Sequence[RowAsk]) -> list[RowAsk]:
        """In an order in which rows whose memories are here keep their places; others take what is left."""
        seats = enumerate(self._held[: len(asks)])
        held = {id(memory): index for index, seat in seats if seat and (memory := seat()) is not None}
        order: list[RowAsk | None] = [None] * len(asks)
        rest = []
        for ask in asks:
            index = held.pop(id(ask.memory), None)
            if index is None:
                rest.append(ask)
            else:
                order[index] = ask
        left = iter(rest)
        return [next(left) if ask is None else ask for ask in order]

    def sit(self, memories: Sequence[Remembered | None]) -> None:
        """Have these memories' lists in the rows' places, and nothing in those that are left."""
        rows = len(self._held)
        for index, memory in enumerate([*memories, *[None] * (rows - len(memories))]):
            seat = self._held[index]
            if seat is None if memory is None else seat is not None and seat() is memory:
                continue
            if isinstance(memory, Listed):
                places = memory.places
                self._places[:, index, :, : places.shape[2]] = places
                self._counts[:, index] = memory.positions
            else:
                self._counts[:, index] = 0
            self._held[index] = None if memory is None else weakref.ref(memory)
