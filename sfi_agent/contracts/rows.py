"""Attention of many rows at a time over keys and values in pages: what a GPU's steps are made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from sfi_agent.contracts.beside import Beside, rms_norm
from sfi_agent.contracts.coding import Coding
from sfi_agent.contracts.drawing import Drawing, weighed
from sfi_agent.contracts.kernel import LayerSpec
from sfi_agent.contracts.lane import PAGE, Lane, LayerPages

CODED_ELEMENTS = 2**23
"""Of keys coded at a time in plain torch; that needs some ten times their bytes in float64 besides."""


class RowsKernel(ABC):
    """What a lane's rows need of a device, above all attention. It reads nothing back."""

    def linear(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """A linear layer of the rows' tokens, as torch's.

        Args:
            inputs: ``[T, K]``.
            weight: ``[N, K]``.
            bias: ``[N]`` or None.
        """
        return linear(inputs, weight, bias)

    def fuses(self, tokens: int, dtype: torch.dtype) -> bool:
        """Whether a step of so many tokens on CUDA, of a model in this dtype, is to call :meth:`fused`."""
        return False

    def fused(self, inputs: Tensor, weight: Tensor, bias: Tensor | None, beside: Beside) -> Tensor:
        """A linear layer, the RMS norm before it, and what follows it: a gate, a residual sum or a rotation.

        Another one may round less on the way, and ``inputs * norm`` before they are scaled.

        Args:
            inputs: ``[T, K]``.
            weight: ``[N, K]``.
            bias: ``[N]`` or None.
            beside: what is computed with it.
        """
        norm, eps, residual, gated, rotary = beside
        if norm is not None:
            inputs = rms_norm(inputs, norm, eps)
        product = self.linear(inputs, weight, bias)
        if gated:
            gate, up = product.chunk(2, -1)
            product = silu(gate) * up
        if rotary is not None:
            product = rotary.turned(product)
        return product if residual is None else residual + product

    def draw(self, logits: Tensor, drawing: Drawing | None, out: Tensor) -> None:
        """Write the tokens that follow.

        Args:
            logits: ``[N, vocabulary]``.
            drawing: how they are drawn; None: they are the most likely, the first of equals.
            out: ``[N]`` int64, contiguous.
        """
        if drawing is None:
            torch.argmax(logits, -1, out=out)
            return
        for part, own in drawing.split():
            torch.argmax(weighed(logits[part], own), -1, out=out[part])

    def code(
        self, coding: Coding, keys: Tensor, codes: Tensor, scales: Tensor, places: Tensor, mean: Tensor
    ) -> None:
        """Write the codes of keys in pages, in all layers.

        Args:
            coding: what codes them.
            keys: ``[layers, pages, H_kv, PAGE, D]``.
            codes, scales: of a pool, as in :class:`LayerPages`, with the layers first.
            places: ``[n]`` int64, ``PAGE * page + slot``.
            mean: ``[layers, H_kv, D]`` float32, taken from the keys first.
        """
        for some in torch.split(places, max(1, CODED_ELEMENTS // mean.numel())):
            pages, slots = some // PAGE, some % PAGE
            found, factors = coding.code(keys[:, pages, :, slots], mean)  # of [n, layers, H_kv, D]
            codes[:, pages, :, slots] = found
            scales[:, pages, :, slots, 0] = factors.half()

    def share(self, reads: Sequence[int], heads: int, pages: LayerPages) -> int:
        """How a lane is divided some of whose rows read far more than others; a number for :meth:`attend`.

        Its meaning is the kernel's own; 0 where it needs none.

        Args:
            reads: positions that a KV head of each row with one new token reads, of an average one.
            heads: H.
            pages: of a layer.
        """
        return 0

    @abstractmethod
    def attend(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        pages: LayerPages,
        lane: Lane,
        layer: int,
        spec: LayerSpec,
    ) -> Tensor:
        """Write the new tokens' KV to their pages, and attend.

        Where the lane has rings, and the layer no window, their queries are written, too.

        Args:
            queries: ``[T, H, D]``, row after row; query i of a row's n stands at ``length - n + i``.
            keys, values: ``[T, H_kv, D]`` and ``[T, H_kv, D_v]``; may be strided views.
            pages: of the layer.
            lane: its rows.
            layer: its index.
            spec: of the layer; one with a window attends to everything in it, whatever is listed.

        Returns:
            ``[T, H, D_v]`` in the queries' dtype; zeros where a token is no row's.
        """

    @abstractmethod
    def mass(
        self,
        queries: Tensor,
        keys: Tensor,
        layers: Sequence[int],
        table: Tensor,
        start: int,
        stop: int,
        spec: LayerSpec,
        power: float,
        *,
        norms: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """What one row's latest queries attended to (:meth:`Evidence.mass`), in several layers.

        Args:
            queries: ``[N, n, H, D]`` of N layers, of positions from ``stop`` on.
            keys: of a pool, ``[layers, pages, H_kv, PAGE, D]``.
            layers: N of them, of one ``spec``.
            table: ``[pages]`` int32, the row's.
            start, stop: the stretch of candidates; it is not empty.
            spec: of these layers.
            power: of the mean.
            norms: whether the keys' norms are asked for, too.

        Returns:
            masses ``[N, H_kv, stop - start]`` and the keys' norms, float32; None where not asked for.
        """

    def place(self, positions: Tensor, table: Tensor, out: Tensor, kept: Tensor) -> None:
        """Write where the sink and the positions that a selector chose lie in the pool.

        Args:
            positions: ``[N, H_kv, S]`` int64 of N layers; -1 in unused places.
            table: ``[pages]`` int32, the row's.
            out: ``[N, H_kv, sink + S]`` int32, any strides: the places ``PAGE * page + slot`` of the first
                ``sink`` positions of the row, then those of ``positions``, -1 for -1.
            kept: ``[]`` int64, to which the number of places other than -1 is added.
        """
        sink = out.shape[-1] - positions.shape[-1]
        first = torch.arange(sink, device=positions.device).expand(*positions.shape[:2], -1)
        all_positions = torch.cat([first, positions], -1)
        there = all_positions.clamp_min(0)
        places = table[there // PAGE].long() * PAGE + there % PAGE
        out.copy_(torch.where(all_positions >= 0, places, -1))
        kept += (all_positions >= 0).sum()
