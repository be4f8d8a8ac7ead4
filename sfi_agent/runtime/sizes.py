"""Bytes that sessions take, or are expected to."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from sfi_agent.errors import PromptError
from sfi_agent.runtime.kv import BLOCK, ROOM
from sfi_agent.runtime.pages import PagedCache
from sfi_agent.runtime.row import Row

OVERHEAD = 1.5
"""Bytes of a session over those of its keys and values, until one was measured."""
_PLAIN = frozenset({"builtins", "torch", "numpy"})
"""Packages whose objects hold no session's tensors but as tensors."""


def tensor_bytes(holder: Any) -> int:
    """Bytes of all tensors reachable from an object, each storage once; of a pool, the pages it holds."""
    storages: dict[int, int] = {}
    paged: list[PagedCache] = []
    seen: set[int] = set()
    left = [holder]
    while left:
        part = left.pop()
        if isinstance(part, Tensor):
            storage = part.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
            continue
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, PagedCache):
            paged.append(part)
        elif isinstance(part, dict):
            left.extend(list(part.values()))  # a turn may be adding to it, or to the set below
        elif isinstance(part, list | tuple | set):
            left.extend(list(part))
        elif dataclasses.is_dataclass(part) or type(part).__module__.partition(".")[0] not in _PLAIN:
            left.append(getattr(part, "__dict__", {}))
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


class ExpectedBytes:
    """What a session of so many tokens will take, learned from those that there are.

    Args:
        token_bytes: of one position's keys and values in all layers, as far as it is known.
    """

    def __init__(self, token_bytes: int) -> None:
        self._rate = OVERHEAD * token_bytes
        self._measured = False

    def of(self, tokens: int) -> int:
        """Bytes, with the capacity that it has or grows to."""
        return int(self._rate * (tokens + max(ROOM, tokens // 8) + BLOCK))

    def within(self, limit: int | None, tokens: int) -> int:
        """As :meth:`of`, for a turn that reaches at most so many tokens.

        Raises:
            PromptError: it would not fit ``limit`` bytes, None being none, if it were alone.
        """
        size = self.of(tokens)
        if limit is None or size <= limit:
            return size
        most = int(limit / self._rate) - BLOCK
        fit = max(0, min(most - ROOM, most * 8 // 9))  # as many as are expected to take so much
        least = f"no turn takes less than {self.of(1):,}: raise the runtime's limit (Limits.bytes)"
        fewer = f"{fit} tokens would fit: shorten the prompt or ask for fewer tokens"
        raise PromptError(
            f"a turn of up to {tokens} tokens may take {size:,} bytes, but all sessions together "
            f"have {limit:,}; {fewer if fit else least}"
        )

    def learn(self, row: Row) -> int:
        """A row's bytes; those of a position are remembered where it is long enough to tell."""
        size, capacity = tensor_bytes(row), row.kv.capacity
        if capacity > BLOCK:
            self._rate = max(self._rate, size / capacity) if self._measured else size / capacity
            self._measured = True
        return size
