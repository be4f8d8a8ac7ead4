"""Random inputs for attention kernels, with NaN wherever a kernel must not read."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from sfi_agent.contracts import LayerSpec

ROOM = 8
"""Positions a cache can grow by."""


@dataclass(frozen=True)
class KV:
    """A KV cache with room: what lies beyond the context is NaN, so that reading it shows.

    Attributes:
        keys: ``[H_kv, L + ROOM, D]``.
        values: ``[H_kv, L + ROOM, D_v]``.
        later: ``[2, H_kv, ROOM, D]``, the keys and values to come.
    """

    keys: Tensor
    values: Tensor
    later: Tensor

    @property
    def length(self) -> int:
        """L, tokens at first."""
        return self.keys.shape[1] - ROOM

    def upto(self, length: int) -> tuple[Tensor, Tensor]:
        """The first ``length`` keys and values, strided views."""
        return self.keys[:, :length], self.values[:, :length]

    def grow(self, length: int, new: int) -> tuple[Tensor, Tensor]:
        """Write the ``new`` positions after ``length``; keys and values up to there."""
        at = length - self.length
        self.keys[:, length : length + new] = self.later[0, :, at : at + new]
        self.values[:, length : length + new] = self.later[1, :, at : at + new, : self.values.shape[2]]
        return self.upto(length + new)

    def positions(self, planned: int, tail: int) -> Tensor:
        """``[H_kv, planned]`` positions below ``tail``, ascending, others for each KV head."""
        generator = torch.Generator().manual_seed(1)
        heads = range(self.keys.shape[0])
        drawn = [torch.randperm(tail, generator=generator)[:planned].sort().values for _ in heads]
        return torch.stack(drawn).to(self.keys.device)

    def poisoned(self, planned: int, tail: int) -> Tensor:
        """Such positions, and NaN at each position below ``tail`` that its head did not draw."""
        positions = self.positions(planned, tail)
        for head, kept in enumerate(positions):
            forbidden = torch.ones(tail, dtype=torch.bool, device=self.keys.device)
            forbidden[kept] = False
            self.keys[head, :tail][forbidden] = torch.nan
            self.values[head, :tail][forbidden] = torch.nan
        return positions


def attention_case(
    new: int,
    length: int,
    device: str,
    *,
    heads: int = 6,
    kv_heads: int = 2,
    dim: int = 64,
    value_dim: int | None = None,
    dtype: torch.dtype = torch.float32,
    sinks: bool = False,
    softcap: float | None = None,
    window: int | None = None,
) -> tuple[Tensor, KV, LayerSpec]:
    """Random queries ``[new, H, D]``, a cache of ``length`` positions, and a layer."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    slab = torch.full((2, kv_heads, length + ROOM, dim), torch.nan, device=device, dtype=dtype)
    slab[:, :, :length] = draw(2, kv_heads, length, dim)
    cache = KV(slab[0], slab[1, ..., :value_dim], draw(2, kv_heads, ROOM, dim))
    spec = LayerSpec(dim**-0.5, softcap, window, draw(heads) if sinks else None)
    return draw(new, heads, dim), cache, spec


@contextmanager
def uninitialised_is_nan() -> Iterator[None]:
    """Meanwhile ``torch.empty`` and its kin give NaN, so that reading what nobody wrote shows."""
    was, only_warned = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Operations without a deterministic form are fine here.
            yield
    finally:
        torch.use_deterministic_algorithms(was, warn_only=only_warned)
