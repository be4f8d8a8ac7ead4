"""A lane on its way through the model: what its attention layers find."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from sfi_agent.contracts import Beside, Lane, LayerSpec, Rotary, RowsKernel
from sfi_agent.runtime.pool import PagePool


class Laned:
    """The step that travels to every layer as ``sfi_step``. Layers attend in their order, each once.

    Attention is reached through an operator of torch's, so that a compiler sees one opaque call.

    Args:
        pool: of the rows' pages.
        kernel: computes attention.
        lane: the rows.
        window: of the model, tokens.
    """

    def __init__(self, pool: PagePool, kernel: RowsKernel, lane: Lane, window: int) -> None:
        self.window = window
        self._pool, self._kernel, self._lane = pool, kernel, lane
        self._layer = 0

    @contextmanager
    def begun(self) -> Iterator[Laned]:
        """Itself, before the first layer; behind the last one this thread knows neither it nor its pages."""
        self._layer = 0
        _in_progress.step = self
        try:
            yield self
        finally:
            _in_progress.step = None

    @property
    def attended(self) -> bool:
        """Whether any layer did since it was begun."""
        return self._layer > 0

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, spec: LayerSpec) -> Tensor:
        """Attention of all rows in the next layer; arguments as for :meth:`RowsKernel.attend`."""
        layer, self._layer = self._layer, self._layer + 1
        pages = self._pool.layer(layer)
        return self._kernel.attend(queries, keys, values, pages, self._lane, layer, spec)

    def linear(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """A linear layer of all rows' tokens ``[..., K]``."""
        flat = inputs.reshape(-1, inputs.shape[-1])
        return self._kernel.linear(flat, weight, bias).view(*inputs.shape[:-1], -1)

    def fused(self, inputs: Tensor, weight: Tensor, bias: Tensor | None, beside: Beside) -> Tensor:
        """As :meth:`linear`, with what precedes and follows it."""
        flat = inputs.reshape(-1, inputs.shape[-1])
        if beside.residual is not None:
            beside = beside._replace(residual=beside.residual.reshape(-1, beside.residual.shape[-1]))
        if (rotary := beside.rotary) is not None:
            cos, sin = (each.reshape(-1, each.shape[-1]) for each in (rotary.cos, rotary.sin))
            beside = beside._replace(rotary=rotary._replace(cos=cos, sin=sin))
        return self._kernel.fused(flat, weight, bias, beside).view(*inputs.shape[:-1], -1)


_in_progress = threading.local()
"""Its ``step`` is this thread's: runtimes of one process may step in threads of their own."""


@torch.library.custom_op("sfi_agent::attend", mutates_args=())
def attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    scaling: float,
    softcap: float | None,
    window: int | None,
    sinks: Tensor | None,
) -> Tensor:
    """Attention of the lane in progress; arguments as for :meth:`RowsKernel.attend` and ``LayerSpec``."""
    step: Laned = _in_progress.step
    return step.attend(queries, keys, values, LayerSpec(scaling, softcap, window, sinks))


@attend.register_fake
def _like(queries: Tensor, keys: Tensor, values: Tensor, *_: Any) -> Tensor:
    return queries.new_empty(*queries.shape[:2], values.shape[2])


@torch.library.custom_op("sfi_agent::linear", mutates_args=())
def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A linear layer of the lane in progress: ``[..., K]`` by ``[N, K]``, plus ``[N]``."""
    step: Laned = _in_progress.step
    return step.linear(inputs, weight, bias)


@linear.register_fake
def _product(inputs: Tensor, weight: Tensor, _: Tensor | None) -> Tensor:
    return inputs.new_empty(*inputs.shape[:-1], weight.shape[0])


@torch.library.custom_op("sfi_agent::fused", mutates_args=())
def fused(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm: Tensor | None,
    eps: float,
    residual: Tensor | None,
    gated: bool,
) -> Tensor:
    """A linear layer of the lane in progress, its norm, and its gate or residual sum ``[..., N]``."""
    step: Laned = _in_progress.step
    return step.fused(inputs, weight, bias, Beside(norm, eps, residual, gated))


@fused.register_fake
def _fused_product(inputs: Tensor, weight: Tensor, *others: Any) -> Tensor:
    *_, gated = others
    return inputs.new_empty(*inputs.shape[:-1], weight.shape[0] // (2 if gated else 1))


@torch.library.custom_op("sfi_agent::rotated", mutates_args=())
def rotated(
    inputs: Tensor,
    weight: Tensor,
    norm: Tensor | None,
    eps: float,
    cos: Tensor,
    sin: Tensor,
    queries: int,
    keys: int,
    query_norm: Tensor | None,
    key_norm: Tensor | None,
    head_eps: float,
) -> Tensor:
    """A linear layer of the lane in progress, its norm, and the rotation of its heads ``[..., N]``."""
    step: Laned = _in_progress.step
    rotary = Rotary(cos, sin, queries, keys, query_norm, key_norm, head_eps)
    return step.fused(inputs, weight, None, Beside(norm, eps, rotary=rotary))


@rotated.register_fake
def _rotated_product(inputs: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return inputs.new_empty(*inputs.shape[:-1], weight.shape[0])
