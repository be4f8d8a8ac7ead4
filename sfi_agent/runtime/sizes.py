"""Bytes that sessions take."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from sfi_agent.runtime.pages import PagedCache
from sfi_agent.runtime.row import Row

_PLAIN = frozenset({"builtins", "torch", "numpy"})
"""Packages whose objects hold no session's tensors but as tensors."""


def tensor_bytes(holder: Any) -> int:
    """Bytes of all tensors reachable from an object, each storage once; of a pool, the pages it holds."""
    storages: dict[int, int] = {}
    paged: list[PagedCache] = []
    seen: set[int] = set()

    def visit(part: Any) -> None:
        if isinstance(part, PagedCache) and id(part) not in seen:
            seen.add(id(part))
            paged.append(part)
        elif isinstance(part, Tensor):
            storage = part.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        elif id(part) in seen:
            return
        elif isinstance(part, dict):
            seen.add(id(part))
            for value in list(part.values()):  # a turn may be adding to it, or to the set below
                visit(value)
        elif isinstance(part, list | tuple | set):
            seen.add(id(part))
            for value in list(part):
                visit(value)
        elif dataclasses.is_dataclass(part) or type(part).__module__.partition(".")[0] not in _PLAIN:
            seen.add(id(part))
            visit(getattr(part, "__dict__", {}))

    visit(holder)
    for cache in paged:
        for tensor in (cache.pool.keys, cache.pool.values, cache.pool.codes, cache.pool.scales):
            if tensor is not None:
                storages.pop(tensor.untyped_storage().data_ptr(), None)
    return sum(storages.values()) + sum(cache.nbytes for cache in paged)


def parked_bytes(row: Row) -> int:
    """Bytes that a row takes at most where it keeps no room to grow."""
    kv = row.kv
    kept = sum(store.position_bytes for store in kv.layers.values()) * kv.length
    return kept + tensor_bytes([row.queries, row.indexes])
