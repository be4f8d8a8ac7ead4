"""The kernels a policy can name, each a choice of one form for every operation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sfi_agent.contracts import AttentionKernel, LayerSpec
from sfi_kernels.dense_attention import grouped as dense_grouped
from sfi_kernels.dense_attention import reference as dense_reference
from sfi_kernels.sparse_attention import grouped as sparse_grouped
from sfi_kernels.sparse_attention import reference as sparse_reference


@dataclass
class TorchKernel(AttentionKernel):
    """Plain float32 PyTorch on any device: slow, and what every other kernel must equal."""

    priority: ClassVar[int] = 1

    def dense(self, queries: Tensor, keys: Tensor, values: Tensor, spec: LayerSpec) -> Tensor:
        return dense_reference.dense_attention(queries, keys, values, spec)

    def plan(
        self, keys: Tensor, values: Tensor, positions: Tensor, tail: int, room: int
    ) -> sparse_reference.Plan:
        return sparse_reference.Plan(positions, tail)

    def sparse(
        self,
        plan: sparse_reference.Plan,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        spec: LayerSpec,
        fresh: int,
    ) -> Tensor:
        return sparse_reference.sparse_attention(plan, queries, keys, values, spec)


@dataclass
class GroupedKernel(AttentionKernel):
    """The query heads of a group share one read of their keys; sparse memory is kept compact."""

    priority: ClassVar[int] = 10

    def dense(self, queries: Tensor, keys: Tensor, values: Tensor, spec: LayerSpec) -> Tensor:
        return dense_grouped.dense_attention(queries, keys, values, spec)

    def plan(
        self, keys: Tensor, values: Tensor, positions: Tensor, tail: int, room: int
    ) -> sparse_grouped.CompactMemory:
        return sparse_grouped.CompactMemory.gather(keys, values, positions, tail, room)

    def sparse(
        self,
        plan: sparse_grouped.CompactMemory,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        spec: LayerSpec,
        fresh: int,
    ) -> Tensor:
        return sparse_grouped.sparse_attention(plan, queries, keys, values, spec, fresh)
