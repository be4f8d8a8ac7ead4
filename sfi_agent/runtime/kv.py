"""The dense keys and values of one session."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from sfi_agent.contracts import LayerSpec

BLOCK = 256
"""Capacity grows in multiples of this many positions."""
ROOM = 512
"""Positions kept free for an answer, so that growing into them costs no copy."""


class LayerStore(ABC):
    """One layer of a session.

    Attributes:
        spec: of the layer.
        key_bytes, position_bytes: of one position's key, and of key and value, all heads.
    """

    spec: LayerSpec
    key_bytes: int
    position_bytes: int

    @property
    @abstractmethod
    def entry(self) -> tuple[Tensor, Tensor]:
        """Any key ``[H_kv, D]`` and value ``[H_kv, D_v]``, for shape, dtype and device."""

    @abstractmethod
    def span(self, first: int, stop: int) -> tuple[Tensor, Tensor]:
        """Keys ``[H_kv, stop - first, D]`` and values ``[H_kv, stop - first, D_v]``: views, or copies."""

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.entry[0].device

    @property
    def key_shape(self) -> tuple[int, int]:
        """``(H_kv, D)``."""
        heads, dim = self.entry[0].shape
        return heads, dim

    @property
    def kv_heads(self) -> int:
        """H_kv."""
        return self.key_shape[0]

    def visible(self, first: int, stop: int) -> int:
        """Positions that dense queries at ``first ... stop - 1`` read in this layer, summed over them."""
        return _visible(first, stop, self.spec.window)


@dataclass(eq=False)
class LayerKV(LayerStore):
    """One layer in one piece: keys ``[H_kv, capacity, D]`` and values ``[H_kv, capacity, D_v]``."""

    keys: Tensor
    values: Tensor
    spec: LayerSpec

    def __post_init__(self) -> None:
        self.key_bytes, value_bytes = (
            part.shape[0] * part.shape[2] * part.element_size() for part in (self.keys, self.values)
        )
        self.position_bytes = self.key_bytes + value_bytes

    @property
    def entry(self) -> tuple[Tensor, Tensor]:
        return self.keys[:, 0], self.values[:, 0]

    def span(self, first: int, stop: int) -> tuple[Tensor, Tensor]:
        return self.keys[:, first:stop], self.values[:, first:stop]


@dataclass(eq=False)
class KVCache:
    """Keys and values of every layer, written by steps and committed when a step succeeds.

    Attributes:
        layers: by layer index; filled by the first step.
        length: committed positions. A failed step leaves its writes beyond this, unseen.
        exact: positions from 0 on that dense attention wrote, on nothing but such positions.
        stretched: the keys carry the rotary frequencies of contexts past the model's ``rotary_limit``.
        unchanged: positions from 0 on that nothing rewrote since the last snapshot, which set it to
            ``length``: a store need not write them again.
    """

    layers: dict[int, LayerKV] = field(default_factory=dict)
    length: int = 0
    exact: int = 0
    stretched: bool = False
    unchanged: int = 0
    _reserved: int = 0

    def reserve(self, length: int) -> None:
        """Expect this many positions, so that growing to them costs no copy."""
        self._reserved = max(self._reserved, length)

    def write(self, layer: int, keys: Tensor, values: Tensor, spec: LayerSpec) -> tuple[Tensor, Tensor]:
        """Put n new positions behind the committed ones.

        Args:
            layer: layer index.
            keys, values: ``[H_kv, n, D]``.
            spec: of the layer.

        Returns:
            views ``[H_kv, length + n, D]`` of everything up to and with the new ones.
        """
        end = self.length + keys.shape[1]
        store = self.layers.get(layer)
        if store is None or end > store.keys.shape[1]:
            store = self.layers[layer] = self._grow(store, keys, values, end, spec)
        store.spec = spec  # one read from disk lacks what only the model knows
        store.keys[:, self.length : end] = keys
        store.values[:, self.length : end] = values
        return store.keys[:, :end], store.values[:, :end]

    def commit(self, tokens: int, *, fast: bool) -> None:
        """A step wrote ``tokens`` positions to every layer."""
        if not fast and self.exact == self.length:
            self.exact += tokens
        self.length += tokens

    def truncate(self, length: int, *, kept: bool = False) -> None:
        """Forget the positions from ``length`` on; ``kept``: pages stay, where there are any."""
        self.length = min(self.length, length)
        self.exact = min(self.exact, length)
        self.unchanged = min(self.unchanged, length)

    def fork(self, length: int | None = None) -> KVCache:
        """A copy of the committed positions, or of the first ``length`` of them."""
        end = self.length if length is None else min(length, self.length)
        layers = {
            index: LayerKV(store.keys[:, :end].clone(), store.values[:, :end].clone(), store.spec)
            for index, store in self.layers.items()
        }
        return KVCache(layers, end, min(self.exact, end), self.stretched)

    def share(self, other: Self, length: int) -> int:
        """Go on with a copy of another's exact positions up to ``length``, which begin as these do.

        No step may run meanwhile.

        Returns:
            how many there are then: fewer where the other's own thread forgot some of them meanwhile.
        """
        length = min(length, other.exact)
        if length > self.length:
            with torch.inference_mode():
                for index, store in other.layers.items():
                    self.write(index, *store.span(self.length, length), store.spec)
            self.length = self.exact = length
            self.stretched = other.stretched
        return self.length

    @property
    def capacity(self) -> int:
        """Positions that fit without growing."""
        return max((store.keys.shape[1] for store in self.layers.values()), default=0)

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return sum(store.keys.nbytes + store.values.nbytes for store in self.layers.values())

    @property
    def alike(self) -> Sequence[tuple[int, ...]]:
        """Full-attention layers, those together that a selector may be shown together."""
        return alike([(index, store.key_shape, store.spec) for index, store in sorted(self.layers.items())])

    def dense_bytes(self, first: int, stop: int) -> int:
        """Bytes that dense steps at ``first ... stop - 1`` read, of one token each."""
        return sum(store.visible(first, stop) * store.position_bytes for store in self.layers.values())

    def _grow(self, old: LayerKV | None, keys: Tensor, values: Tensor, end: int, spec: LayerSpec) -> LayerKV:
        wanted = max(end, self._reserved, end + end // 8 if old else 0)
        new = LayerKV(empty(keys, wanted), empty(values, wanted), spec)
        if old:
            new.keys[:, : self.length] = old.keys[:, : self.length]
            new.values[:, : self.length] = old.values[:, : self.length]
        return new


def alike(layers: Iterable[tuple[int, tuple[int, ...], LayerSpec]]) -> tuple[tuple[int, ...], ...]:
    """Of layers, shapes of their keys and specs: those that attend to everything, alike ones together."""
    groups: dict[object, list[int]] = {}
    for index, shape, spec in layers:
        if spec.window is None:
            groups.setdefault((shape, spec.scaling, spec.softcap), []).append(index)
    return tuple([tuple(group) for group in groups.values()])


def visible(windows: Sequence[int | None], first: int, stop: int) -> int:
    """Positions that dense queries at ``first ... stop - 1`` read in layers of these windows, or of none.

    Summed over queries and layers.
    """
    full = windows.count(None) * _visible(first, stop, None)
    return full + sum([_visible(first, stop, window) for window in windows if window is not None])


def _visible(first: int, stop: int, window: int | None) -> int:
    # From here on a query reads the window, and not all before it.
    filled = stop if window is None else min(max(first, window), stop)
    growing = (filled - first) * (first + 1 + filled) // 2
    return growing + (stop - filled) * (window or 0)


def empty(like: Tensor, length: int, device: torch.device | None = None) -> Tensor:
    """Storage ``[H_kv, capacity, D]`` for ``length`` positions of entries as in ``like`` ``[H_kv, n, D]``."""
    return like.new_empty(like.shape[0], -(-length // BLOCK) * BLOCK, like.shape[2], device=device)
