"""The layers of a session whose keys and values are in pages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sfi_agent.contracts import LayerSpec
from sfi_agent.runtime.kv import LayerStore

if TYPE_CHECKING:
    from sfi_agent.runtime.pages import PagedCache


class PagedLayer(LayerStore):
    """One layer of a session in a pool."""

    def __init__(self, cache: PagedCache, index: int, spec: LayerSpec) -> None:
        self.spec = spec
        self.key_bytes, self.position_bytes = cache.pool.key_bytes, cache.pool.position_bytes
        self._cache, self._index = cache, index

    @property
    def entry(self) -> tuple[Tensor, Tensor]:
        pool = self._cache.pool
        return pool.keys[self._index, 0, :, 0], pool.values[self._index, 0, :, 0]

    @property
    def device(self) -> torch.device:
        return self._cache.pool.keys.device

    @property
    def key_shape(self) -> tuple[int, int]:
        _, _, heads, _, dim = self._cache.pool.keys.shape
        return heads, dim

    def span(self, first: int, stop: int) -> tuple[Tensor, Tensor]:
        return self._cache.gathered(self._index, first, stop)


class PagedLayers(Mapping[int, LayerStore]):
    """All layers of a session in a pool, each made when it is asked for."""

    def __init__(self, cache: PagedCache) -> None:
        self._cache = cache

    def __getitem__(self, index: int) -> PagedLayer:
        if index not in range(len(self)):
            raise KeyError(index)
        return PagedLayer(self._cache, index, self._cache.pool.specs[index])

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self)))

    def __len__(self) -> int:
        return len(self._cache.pool.specs)
