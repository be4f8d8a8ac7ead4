"""What an attention kernel is: one row's attention in one layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from sfi_agent.contracts.rows import RowsKernel


@dataclass(frozen=True)
class LayerSpec:
    """What a model asks of one attention layer.

    Attributes:
        scaling: factor on the logits, usually ``D ** -0.5``.
        softcap: ``c`` of ``c * tanh(logits / c)`` (Gemma 2), or None.
        window: a query at position p sees keys in ``(p - window, p]``; None: all up to p.
        sinks: ``[H]`` learned logits that join the softmax and carry no value (GPT-OSS), or None.
    """

    scaling: float
    softcap: float | None = None
    window: int | None = None
    sinks: Tensor | None = None

    def logits(self, products: Tensor) -> Tensor:
        """Products of queries and keys, scaled and capped."""
        logits = products * self.scaling
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


class AttentionKernel(ABC):
    """One row's attention in one layer: over everything, or over a sparse memory.

    ``plan`` runs when the memory changes, ``sparse`` at every fast step. A kernel must agree with
    ``sfi_kernels``' reference within the tolerance table of :mod:`sfi_agent.testing`.
    """

    priority: ClassVar[int] = 0
    """Rank under kernel ``auto``, which takes the highest that can run and never a 0: such a kernel
    is used where a policy names it. Read off the registered class itself, so a subclass states its own;
    equal ranks go by name."""

    def unavailable(self, device: torch.device) -> str | None:
        """Why this kernel cannot run on ``device``, or None when it can."""
        return None

    def rows(self) -> RowsKernel | None:
        """The same attention for many rows over pages, for runtimes that keep KV so; None: it has none."""
        return None

    @abstractmethod
    def dense(self, queries: Tensor, keys: Tensor, values: Tensor, spec: LayerSpec) -> Tensor:
        """Causal attention of the last n tokens over the whole context.

        Args:
            queries: ``[n, H, D]``; query i stands at position ``L - n + i``.
            keys, values: ``[H_kv, L, D]`` and ``[H_kv, L, D_v]``, the n new tokens included; may be
                strided views.
            spec: scaling and masks of the layer.

        Returns:
            ``[n, H, D_v]`` in the queries' dtype.
        """

    @abstractmethod
    def plan(self, keys: Tensor, values: Tensor, positions: Tensor, tail: int, room: int) -> Any:
        """Prepare fast steps over ``positions`` and everything from ``tail`` on.

        Args:
            keys, values: ``[H_kv, L, D]`` and ``[H_kv, L, D_v]``.
            positions: ``[H_kv, S]`` int64, sink and selected, ascending, all below ``tail``. A head
                that remembers fewer than S has -1 in its unused places.
            tail: first recent position, at most L.
            room: tokens that may follow position L - 1 before the next plan.

        Returns:
            anything; it comes back as ``plan`` in :meth:`sparse`.
        """

    @abstractmethod
    def sparse(
        self, plan: Any, queries: Tensor, keys: Tensor, values: Tensor, spec: LayerSpec, fresh: int
    ) -> Tensor:
        """Attention over a planned memory.

        Args:
            plan: what :meth:`plan` returned.
            queries: ``[n, H, D]`` of the last n tokens.
            keys, values: ``[H_kv, L, D]`` and ``[H_kv, L, D_v]``, the n new tokens included.
            spec: as in :meth:`dense`; its ``window`` is None.
            fresh: first position whose KV may differ from what an earlier call with this plan saw,
                ``tail <= fresh <= L - n``, or L where nothing is recent (``tail`` is L). A kernel that
                copies the recent KV copies from here on.

        Returns:
            ``[n, H, D_v]`` in the queries' dtype.
        """
