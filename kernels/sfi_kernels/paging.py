"""How the Triton kernels address keys and values: pages of a pool, or one plain tensor as if in pages."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from sfi_agent.contracts import PAGE
from sfi_kernels.rounding import next_power_of_2

__all__ = ["PAGE", "Paged"]

# A page is also what the kernels read at a time.


@dataclass(frozen=True)
class Paged:
    """Where one layer's keys and values lie.

    Attributes:
        keys, values: the storage, any shape; the last dimension of an entry is contiguous.
        tables: ``[R, pages]`` int32: the page that holds positions ``PAGE * i ...`` of each row.
        key_strides, value_strides: elements from page to page, head to head and position to position.
        kv_heads, dim, value_dim: H_kv, D and D_v.
        pooled: whether they are a pool's, whose shape stays.
    """

    keys: Tensor
    values: Tensor
    tables: Tensor
    key_strides: tuple[int, int, int]
    value_strides: tuple[int, int, int]
    kv_heads: int
    dim: int
    value_dim: int
    pooled: bool = False

    def constants(self) -> tuple[Any, ...]:
        """The strides of keys and values for a launch: of a pool as constants, which shortens addresses.

        A plain tensor's are numbers: it grows, and a constant is a kernel of its own.
        """
        strides = *self.key_strides, *self.value_strides
        return tuple(map(tl.constexpr, strides)) if self.pooled else strides

    @classmethod
    def pool(cls, keys: Tensor, values: Tensor, tables: Tensor) -> Paged:
        """Pools ``[pages, H_kv, PAGE, D]`` and ``[pages, H_kv, PAGE, D_v]``."""
        return cls(
            keys,
            values,
            tables,
            (keys.stride(0), keys.stride(1), keys.stride(2)),
            (values.stride(0), values.stride(1), values.stride(2)),
            keys.shape[1],
            keys.shape[3],
            values.shape[3],
            pooled=True,
        )

    @classmethod
    def plain(cls, keys: Tensor, values: Tensor) -> Paged:
        """One row's ``[H_kv, L, D]`` and ``[H_kv, L, D_v]``; a page is the next ``PAGE`` positions."""
        keys, values = (store if store.stride(2) == 1 else store.contiguous() for store in (keys, values))
        return cls(
            keys,
            values,
            _in_order(-(-keys.shape[1] // PAGE), keys.device),
            (PAGE * keys.stride(1), keys.stride(0), keys.stride(1)),
            (PAGE * values.stride(1), values.stride(0), values.stride(1)),
            keys.shape[0],
            keys.shape[2],
            values.shape[2],
        )


def _in_order(pages: int, device: torch.device) -> Tensor:
    """``[1, pages]``: each page where it is expected."""
    return _counting(next_power_of_2(max(pages, 1)), device)[:, :pages]


@lru_cache(maxsize=32)
def _counting(pages: int, device: torch.device) -> Tensor:
    return torch.arange(pages, dtype=torch.int32, device=device)[None]
