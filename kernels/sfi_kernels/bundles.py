"""The kernels a policy can name, each a choice of one form for every operation."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import ClassVar

import torch
from torch import Tensor

from sfi_agent.contracts import AttentionKernel, LayerSpec, RowsKernel
from sfi_kernels.dense_attention import grouped as dense_grouped
from sfi_kernels.dense_attention import reference as dense_reference
from sfi_kernels.rows import TorchRows, TritonRows
from sfi_kernels.sparse_attention import grouped as sparse_grouped
from sfi_kernels.sparse_attention import reference as sparse_reference

LEAST_CAPABILITY = 8, 0
"""Of a GPU for which Triton makes products of bfloat16."""


@dataclass
class TorchKernel(AttentionKernel):
    """Plain float32 PyTorch on any device: slow, and what every other kernel must equal."""

    priority: ClassVar[int] = 1

    def rows(self) -> RowsKernel:
        return TorchRows()

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


@dataclass(frozen=True)
class Listed:
    """What the Triton kernel remembers of a plan: positions, not copies.

    Attributes:
        positions: ``[1, H_kv, S]`` int32, -1 in unused places.
        counts: ``[1, H_kv]`` int32, each S.
        tail: first recent position.
    """

    positions: Tensor
    counts: Tensor
    tail: int


@dataclass
class TritonKernel(AttentionKernel):
    """Reads keys and values where they lie, a context's parts side by side: for GPUs."""

    priority: ClassVar[int] = 20

    def unavailable(self, device: torch.device) -> str | None:
        if find_spec("triton") is None:
            return "needs triton: pip install 'sfi-agent[triton]'"
        if device.type != "cuda":
            return f"runs on CUDA devices, not on {device.type}"
        if (capability := torch.cuda.get_device_capability(device)) < LEAST_CAPABILITY:
            least, found = (".".join(map(str, each)) for each in (LEAST_CAPABILITY, capability))
            return f"needs a GPU of compute capability {least} (Ampere) or newer; this one has {found}"
        return None

    def rows(self) -> RowsKernel:
        return TritonRows()

    def dense(self, queries: Tensor, keys: Tensor, values: Tensor, spec: LayerSpec) -> Tensor:
        from sfi_kernels.dense_attention.triton import dense_attention
        from sfi_kernels.paging import Paged

        length = keys.shape[1]
        lengths = torch.full((1,), length, dtype=torch.int32, device=keys.device)
        return dense_attention(queries, Paged.plain(keys, values), lengths, spec, longest=length)

    def plan(self, keys: Tensor, values: Tensor, positions: Tensor, tail: int, room: int) -> Listed:
        listed = positions.int()[None].contiguous()
        counts = torch.full(listed.shape[:2], listed.shape[2], dtype=torch.int32, device=keys.device)
        return Listed(listed, counts, tail)

    def sparse(
        self, plan: Listed, queries: Tensor, keys: Tensor, values: Tensor, spec: LayerSpec, fresh: int
    ) -> Tensor:
        from sfi_kernels.paging import Paged
        from sfi_kernels.sparse_attention.triton import sparse_attention

        length = keys.shape[1]
        tails, lengths = torch.tensor([[plan.tail], [length]], dtype=torch.int32, device=keys.device)
        return sparse_attention(
            queries,
            Paged.plain(keys, values),
            plan.positions,
            plan.counts,
            tails,
            lengths,
            spec,
            longest=plan.positions.shape[2] + length - plan.tail,
        )
