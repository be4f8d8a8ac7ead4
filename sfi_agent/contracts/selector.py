"""What a selector is: it turns evidence into the positions of the sparse memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from sfi_agent.contracts.coding import Coding
from sfi_agent.contracts.index import KeyIndex
from sfi_agent.contracts.kernel import LayerSpec
from sfi_agent.contracts.state import Stateful


@dataclass
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

    def mass(self, power: float = 1.0) -> Tensor:
        """``[N, H_kv, P]`` float32: the power mean over the R rows of each candidate's probability.

        A selector that needs no more than this spares a GPU the logits of every row, which are then never
        stored.

        Args:
            power: exponent, above 0; 1 is the plain mean.
        """
        if power == 1:
            return self.probabilities.mean(-2)
        return self.probabilities.pow(power).mean(-2).pow(1 / power)


@dataclass
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
        positions: ``[N, H_kv, S]`` int64, ascending along the last axis, each in
            ``[view.start, view.stop)``. A head that wants fewer than S has -1 in its unused places,
            which come first. All heads of all layers together use at most ``N * H_kv * count``.
    """

    positions: Tensor


@dataclass(frozen=True)
class Ranking:
    """What a fast step of one layer may choose from.

    Attributes:
        layer: its index.
        start, stop: the candidates' stretch, between sink and recent.
        count: positions to choose for each KV head, as in :class:`View`.
        heads: ``H_kv``.
        spec: scaling and soft cap of the layer's logits.
        candidates: ``[H_kv, C]`` int64, what :meth:`Selector.refresh` chose; None: the whole stretch.
    """

    layer: int
    start: int
    stop: int
    count: int
    heads: int
    spec: LayerSpec
    candidates: Tensor | None = None


class Selector(Stateful, ABC):
    """Turns evidence into selected positions, at a slow step.

    A selector is a dataclass whose fields are its settings. The runtime makes one object for each
    session, so a selector may keep state between calls; ``reset`` forgets it, and ``state`` and
    ``restore`` carry it through a session on disk (attributes of numbers, text and tensors by themselves).

    A selector with ``reranks`` chooses anew at every fast step: the runtime keeps an index of each
    layer's keys for it and calls :meth:`rerank` with the step's own queries. It then calls
    :meth:`refresh` only if the selector wants evidence, and what that returns are the candidates.
    """

    evidence_rows: ClassVar[int] = 1
    """Latest query tokens it wants captured (0: it reads no evidence, ``logits`` has R = 0)."""
    reads_norms: ClassVar[bool] = False
    """Whether it reads ``View.key_norms``: a kernel that sums mass takes them on the way."""
    reranks: ClassVar[bool] = False
    """Whether it chooses at every fast step, from an index."""

    @abstractmethod
    def refresh(self, evidence: Evidence, view: View) -> Selection:
        """Choose ``view.count`` positions for each of N layers and ``H_kv`` heads."""

    def rows_wanted(self) -> int:
        """Captured query tokens this object wants; defaults to ``evidence_rows``."""
        return self.evidence_rows

    def index(self, layer: int) -> KeyIndex | None:
        """A new, empty index for a layer's keys; None for a layer that reads none."""
        return None

    def coding(self) -> Coding | None:
        """The code by which a kernel chooses what :meth:`rerank` would; None: only ``rerank`` can tell."""
        return None

    def rerank(self, queries: Tensor, index: KeyIndex | None, ranking: Ranking) -> Tensor:
        """Choose for each of a fast step's queries; called layer after layer, lowest first.

        Args:
            queries: ``[n, H, D]``.
            index: of the layer, as :meth:`index` made it.
            ranking: what to choose from, and how many.

        Returns:
            ``[n, H_kv, S]`` int64, under the rules of :attr:`Selection.positions`.
        """
        raise NotImplementedError(f"{type(self).__name__} sets reranks but has no rerank")

    def reset(self) -> None:
        """Forget state kept between refreshes (a session's history was rewritten)."""
