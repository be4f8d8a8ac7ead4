"""The latest tokens' queries, from which a slow step's evidence is made."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

EVIDENCE_ROWS = 32
"""Query tokens kept for evidence, unless a selector wants more."""
SPARE_ROWS = 65
"""Slots beside them, so that a rejected draft (at most 64 tokens) never overwrites kept queries."""


def at(layers: Sequence[int]) -> slice | list[int]:
    """Ascending layers as an index: a slice where they follow each other, which no device has to be sent."""
    first, last = layers[0], layers[-1]
    return slice(first, last + 1) if last - first + 1 == len(layers) else list(layers)


class RecentQueries:
    """The latest tokens' queries in each layer, the raw material of evidence.

    A ring over positions: ``[size, H, D]`` a layer, position p in slot ``p % size``.
    """

    def __init__(self, rows: int = EVIDENCE_ROWS) -> None:
        self.rows = rows
        self.size = rows + SPARE_ROWS
        self._layers: dict[int, Tensor] = {}
        self._held = [-1] * self.size
        self._written: set[int] = set()  # by steps that are under way
        self._stack: Tensor | None = None

    def copy(self) -> RecentQueries:
        """The same queries, on their own."""
        twin = RecentQueries(self.rows)
        twin._layers = {layer: ring.clone() for layer, ring in self._layers.items()}
        twin._held = list(self._held)
        return twin

    def write(self, layer: int, start: int, queries: Tensor) -> None:
        """Keep the queries ``[n, H, D]`` from position ``start`` on, whose slots ``forget`` emptied."""
        if (ring := self._layers.get(layer)) is None:
            ring = self._layers[layer] = queries.new_empty(self.size, *queries.shape[1:])
        n = queries.shape[0]
        self._written.update(self._last(start, n))
        if n == 1:
            ring[start % self.size] = queries[0]
            return
        skipped = max(0, n - self.size)
        slots = torch.arange(start + skipped, start + n, device=queries.device) % self.size
        ring[slots] = queries[skipped:]

    def entered(self, start: int, tokens: int, windows: Sequence[int | None], like: Tensor) -> Tensor:
        """The rings ``[layers, size, H, D]``, in which a step writes its tokens' queries, ``like`` [H, D].

        It leaves out those of layers that have a window.
        """
        if self._stack is None or self._stack.shape[0] != len(windows):
            self._stack = like.new_empty(len(windows), self.size, *like.shape)
            for layer, window in enumerate(windows):
                if (own := self._layers.get(layer)) is not None:
                    self._stack[layer] = own
                if window is None:
                    self._layers[layer] = self._stack[layer]
        self._written.update(self._last(start, tokens))
        return self._stack

    def commit(self, start: int, tokens: int) -> None:
        """The step over these positions succeeded: those whose queries it wrote are held."""
        for position in self._last(start, tokens):
            if position in self._written:
                self._held[position % self.size] = position
                self._written.remove(position)

    def forget(self, start: int, tokens: int) -> None:
        """A step will write these positions: until it is committed their slots count as empty.

        So do those of a step under way that it writes behind that one: they never hold what that one wrote.
        """
        slots = {position % self.size for position in self._last(start, tokens)}
        for slot in slots:
            self._held[slot] = -1
        if self._written:
            self._written = {position for position in self._written if position % self.size not in slots}

    def latest(self, length: int, rows: int) -> list[int]:
        """Up to ``rows`` of the positions just before ``length`` whose queries are held, ascending."""
        found: list[int] = []
        position = length - 1
        while len(found) < rows and position >= 0 and self._held[position % self.size] == position:
            found.append(position)
            position -= 1
        return found[::-1]

    def held(self, length: int) -> tuple[list[int], dict[int, Tensor]]:
        """The positions below ``length`` whose queries are held, and each layer's queries of them."""
        positions = sorted(position for position in self._held if 0 <= position < length)
        return positions, {layer: self.gather(layer, positions) for layer in self._layers}

    def put(self, positions: list[int], layers: dict[int, Tensor]) -> None:
        """Hold what :meth:`held` of another ring of as many rows gave."""
        slots = [position % self.size for position in positions]
        for layer, queries in layers.items():
            ring = self._layers[layer] = queries.new_empty(self.size, *queries.shape[1:])
            ring[slots] = queries
        for slot, position in zip(slots, positions, strict=True):
            self._held[slot] = position

    def gather(self, layer: int, positions: list[int]) -> Tensor:
        """``[len(positions), H, D]``."""
        return self._layers[layer][[position % self.size for position in positions]]

    def gather_layers(self, layers: Sequence[int], start: int, stop: int) -> Tensor:
        """``[len(layers), stop - start, H, D]`` of the positions from ``start`` to ``stop``, views maybe."""
        runs = self._runs(start, stop)
        if self._stack is not None and isinstance(index := at(layers), slice):
            parts = [self._stack[index, part] for part in runs]
            return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        return torch.stack([torch.cat([self._layers[layer][part] for part in runs]) for layer in layers])

    @property
    def heads(self) -> int:
        """H."""
        return next(iter(self._layers.values())).shape[1]

    def _last(self, start: int, tokens: int) -> range:
        """Those of these positions that the ring has slots for: the last."""
        return range(max(start, start + tokens - self.size), start + tokens)

    def _runs(self, start: int, stop: int) -> list[slice]:
        """The slots of these positions, in order: a second stretch where the ring begins anew."""
        first, last = start % self.size, (stop - 1) % self.size + 1
        return [slice(first, last)] if first < last else [slice(first, self.size), slice(0, last)]
