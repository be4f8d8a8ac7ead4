"""Attention of many rows at a time over keys and values in pages: what a GPU's steps are made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from sfi_agent.contracts.beside import Beside, rms_norm
from sfi_agent.contracts.drawing import Drawing, weighed
from sfi_agent.contracts.kernel import LayerSpec

PAGE = 64
"""Positions in a page."""
CODED_ELEMENTS = 2**23
"""Of keys coded at a time in plain torch; that needs some ten times their bytes in float64 besides."""


class LayerPages(NamedTuple):
    """One layer's part of a pool.

    Attributes:
        keys: ``[pages, H_kv, PAGE, D]``.
        values: ``[pages, H_kv, PAGE, D_v]``.
        codes: ``[pages, H_kv, PAGE, D * bits / 8]`` uint8 of the keys, the lowest bits first, or None.
        scales: ``[pages, H_kv, PAGE, 1]`` float16, one factor a key; finite where nothing was coded, too.
    """

    keys: Tensor
    values: Tensor
    codes: Tensor | None = None
    scales: Tensor | None = None


class Coding(ABC):
    """A code of keys by whose estimates a kernel can choose.

    What it chooses are the positions of the highest estimated probability, averaged over a group's query
    heads, for all KV heads of a layer together (:func:`sfi_agent.contracts.top_jointly`).

    Attributes:
        bits: of an element.
        levels: ``2 ** bits``, ascending, what each symbol stands for.
        nearest: whether the code is that of ``kernels/sfi_kernels/coding/README.md``, so that a kernel may
            find it itself: elements of the rotated key over their root mean square, each the nearest level.
            A subclass with another ``code`` sets it False.
    """

    bits: int
    levels: tuple[float, ...]
    nearest: bool = False

    @abstractmethod
    def rotation(self, like: Tensor) -> Tensor:
        """``[D, D]`` float32 on the device of keys ``[..., D]``: what they are rotated by."""

    @abstractmethod
    def code(self, keys: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Codes ``[..., D * bits / 8]`` uint8 and scales ``[...]`` of keys ``[..., D]`` less ``mean``."""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.bits == getattr(other, "bits", None)

    def __hash__(self) -> int:
        return hash((type(self), self.bits))


class Lists(NamedTuple):
    """Remembered places of one layer.

    Attributes:
        places: ``[R, H_kv, S]`` int32, ``PAGE * page + slot``; -1 is passed over.
        counts: ``[R, H_kv]`` int32, how many of them each head remembers.
    """

    places: Tensor
    counts: Tensor


class Ranked(NamedTuple):
    """What each row chooses anew from the codes.

    Attributes:
        coding: of the codes.
        starts, stops: ``[R]`` int32: the stretch to choose from. What precedes it, the sink, is always
            attended to; both are 0 in a dense row.
        wanted: ``[R]`` int32: positions to choose for all KV heads together.
        most: at least what one head may be given, sink and all.
        longest: at least the largest stop.
    """

    coding: Coding
    starts: Tensor
    stops: Tensor
    wanted: Tensor
    most: int
    longest: int


class Rings(NamedTuple):
    """Where rows keep the queries of their latest tokens: position p's in slot ``p % size``, in each layer.

    Attributes:
        stores: R of ``[layers, size, H, D]`` in the queries' dtype; None: the row keeps none.
        facts: ``[4, R]`` int32 on the device, of the same, for launches that are captured before the stores
            are known: the lower and the upper half of a store's address (0: there is none), its size, and
            how many of the row's new tokens are kept. Those behind them only fill the launch.
    """

    stores: Sequence[Tensor | None]
    facts: Tensor


@dataclass(frozen=True)
class Lane:
    """Rows of a step, their new tokens behind one another.

    A row attends to what is listed or chosen for it in the layer and to everything from its tail on; a
    dense row has nothing listed and a tail of 0.

    Attributes:
        tokens: new tokens of each row; with ``firsts``, at most.
        tables: ``[R, pages]`` int32: the page that holds positions ``PAGE * i ...`` of each row.
        lengths: ``[R]`` int32, contexts with the new tokens.
        tails: ``[R]`` int32, first recent positions.
        longest: at least what any row attends to: how far a launch is laid out.
        lists: by layer; None: nothing is listed.
        ranked: None: nothing is chosen. Lists and this exclude each other.
        shares: ``[R]`` int32, what :meth:`RowsKernel.share` gave, or 0 in a row that only fills the launch;
            None: no row is dense among others that are not.
        rings: None: no row keeps queries.
        firsts: ``[R + 1]`` int32, each row's first token, and the number of all rows' tokens, behind which
            may be some that only fill the launch. Rows without tokens, which do so too, are the last ones.
            None: rows have as many each.
    """

    tokens: int
    tables: Tensor
    lengths: Tensor
    tails: Tensor
    longest: int
    lists: Mapping[int, Lists] | None = None
    ranked: Ranked | None = None
    shares: Tensor | None = None
    rings: Rings | None = None
    firsts: Tensor | None = None


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
            drawing: how they are drawn; None: they are the most likely.
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
