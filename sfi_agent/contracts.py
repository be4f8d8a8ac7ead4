"""The three things a plugin can provide: a selector, a boundary detector, an attention kernel.

Shapes use one set of letters throughout the project:

====  ==========================================================
N     layers in one call (full-attention layers only)
H     query heads; ``H_kv`` key/value heads; ``G = H / H_kv``
D     head dimension; ``D_v`` that of values, where it differs (latent attention)
L     tokens in the context
P     candidate positions, those between sink and recent
R     evidence rows for one KV head: ``G`` x captured queries
n     new tokens of one row in one step
====  ==========================================================
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntFlag
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Evidence:
    """What a slow step saw, for one session and N of its layers.

    Attributes:
        logits: ``[N, H_kv, R, P]`` float32, scaled (and soft-capped) attention logits of R query
            rows against the candidate positions. Row ``g * captured + j`` is query head ``g`` of
            the group at the ``j``-th captured token, oldest first. Every candidate precedes every
            captured query, so no entry is masked.
        captured: tokens whose queries were captured, at most the selector's ``evidence_rows``.
    """

    logits: Tensor
    captured: int

    @cached_property
    def probabilities(self) -> Tensor:
        """``[N, H_kv, R, P]`` float32: softmax of ``logits`` over the candidates."""
        return self.logits.softmax(-1)


@dataclass(frozen=True)
class View:
    """The stretch of context a selector may choose from, and how much of it.

    Attributes:
        start: first candidate position (the sink's length).
        stop: one past the last candidate position (where recent begins).
        length: L, tokens in the context.
        count: positions to select for each layer and KV head; at most ``stop - start``.
        layers: N layer indices, in the order of the evidence's first axis.
        keys: N tensors ``[H_kv, P, D]`` in the model's dtype, views of the dense KV.
    """

    start: int
    stop: int
    length: int
    count: int
    layers: tuple[int, ...]
    keys: Sequence[Tensor]

    @cached_property
    def key_norms(self) -> Tensor:
        """``[N, H_kv, P]`` float32 Euclidean norms of the candidate keys."""
        return torch.stack([keys.float().norm(dim=-1) for keys in self.keys])


@dataclass(frozen=True)
class Selection:
    """Positions for the sparse memory.

    Attributes:
        positions: ``[N, H_kv, count]`` int64, ascending along the last axis, each in
            ``[view.start, view.stop)``.
    """

    positions: Tensor


class Selector(ABC):
    """Turns evidence into selected positions, at a slow step.

    A selector is a dataclass whose fields are its settings. The runtime makes one object for each
    session, so a selector may keep state between calls; ``reset`` forgets it.
    """

    evidence_rows: ClassVar[int] = 1
    """Latest query tokens it wants captured (0: it reads no evidence, ``logits`` has R = 0)."""

    @abstractmethod
    def refresh(self, evidence: Evidence, view: View) -> Selection:
        """Choose ``view.count`` positions for each of N layers and ``H_kv`` heads."""

    def rows_wanted(self) -> int:
        """Captured query tokens this object wants; defaults to ``evidence_rows``."""
        return self.evidence_rows

    def reset(self) -> None:
        """Forget state kept between refreshes (a session's history was rewritten)."""


def top_positions(scores: Tensor, count: int, start: int) -> Selection:
    """The ``count`` best-scoring candidates, ties broken by the earlier position.

    Args:
        scores: ``[N, H_kv, P]``; higher is better, ``-inf`` allowed, NaN not.
        count: positions to keep, ``0 <= count <= P``.
        start: position of the first candidate.

    Returns:
        positions ``[N, H_kv, count]`` int64, ascending. ``torch.topk`` leaves the order of equal
        scores open; this does not, so every device selects the same positions.
    """
    lead = scores.shape[:-1]
    if count == 0:
        return Selection(torch.empty(*lead, 0, dtype=torch.int64, device=scores.device))
    threshold = scores.topk(count, dim=-1).values[..., -1:]
    above, equal = scores > threshold, scores == threshold
    missing = count - above.sum(-1, keepdim=True)
    keep = above | (equal & (equal.cumsum(-1) <= missing))
    return Selection(keep.nonzero()[:, -1].view(*lead, count) + start)


class TokenFlag(IntFlag):
    """How one vocabulary entry acts on a compiled boundary detector."""

    NONE = 0
    FIRE = 1
    """The step that reads this token is slow."""
    ARM = 2
    """Ends a unit: the first later token with neither ARM nor HOLD fires."""
    HOLD = 4
    """Does not fire an armed detector (a newline after a full stop)."""


class Vocabulary(ABC):
    """What a detector may know of a tokenizer."""

    @cached_property
    @abstractmethod
    def texts(self) -> Sequence[str]:
        """Text of each token id on its own (special tokens included, as written)."""


class BoundaryDetector(ABC):
    """Says, token by token, whether the step that reads the token should be slow.

    A dataclass whose fields are its settings. Override *one* of two:

    * ``flags``, where the token id alone decides: compiled once for each vocabulary into a lookup
      table, so that a GPU loop needs no host synchronisation;
    * ``observe``, where text decides: called once for each token with the text it completed.

    The runtime makes one object for each turn.
    """

    def flags(self, vocabulary: Vocabulary) -> np.ndarray[Any, np.dtype[np.uint8]] | None:
        """``[vocabulary]`` uint8 of :class:`TokenFlag`, or None to be asked by ``observe``."""
        return None

    def observe(self, text: str) -> bool:
        """Whether the step that reads the token just produced should be slow.

        Args:
            text: what the token added, special tokens included; never half a character, so it is
                empty while a character is incomplete.
        """
        raise NotImplementedError(f"{type(self).__name__} overrides neither flags nor observe")

    def reset(self) -> None:
        """Forget what was observed."""


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


class AttentionKernel(ABC):
    """One row's attention in one layer: over everything, or over a sparse memory.

    ``plan`` runs when the memory changes, ``sparse`` at every fast step. A kernel must agree with
    ``sfi_kernels``' reference within the tolerance table of :mod:`sfi_agent.testing`.
    """

    def unavailable(self, device: torch.device) -> str | None:
        """Why this kernel cannot run on ``device``, or None when it can."""
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
            positions: ``[H_kv, S]`` int64, sink and selected, ascending, all below ``tail``.
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
                ``tail <= fresh <= L - n``. A kernel that copies the recent KV copies from here on.

        Returns:
            ``[n, H, D_v]`` in the queries' dtype.
        """
