"""The seam into transformers: an attention function and a mask function, both named ``sfi``.

A step travels to every layer as the keyword argument ``sfi_step`` of the model's forward. Without
one the function computes plain masked attention, so a model left on ``sfi`` still answers right.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary, finalize

import torch
from torch import Tensor, nn

from sfi_agent.contracts import LayerSpec
from sfi_agent.errors import ModelError
from sfi_agent.runtime.laned import Laned, attend

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sfi_agent.runtime.step import Step

NAME = "sfi"


class Switch:
    """Has a model on attention ``sfi``, until all that have are over: they are closed, or garbage.

    Args:
        model: whose attention nobody else may switch meanwhile.
    """

    _own: ClassVar[WeakKeyDictionary[PreTrainedModel, tuple[str, int]]] = WeakKeyDictionary()
    """Of each model its own attention, and how many have it on this one."""
    _guard: ClassVar[Lock] = Lock()
    _over: ClassVar[deque[PreTrainedModel]] = deque()
    """Of those that are over, the models that are not told yet."""

    def __init__(self, model: PreTrainedModel) -> None:
        register()
        self._model = model
        with self._guard:
            own, count = self._own.get(model, (str(model.config._attn_implementation), 0))
            model.set_attn_implementation(NAME)
            self._own[model] = own, count + 1
        self._ended = finalize(self, self._collected, model)
        self._ended.atexit = False
        self._tell()

    def close(self) -> None:
        """This one is over; safe to call twice."""
        if self._ended.detach():
            with self._guard:
                self._count_down(self._model)
        self._tell()

    @contextmanager
    def lent(self) -> Iterator[PreTrainedModel]:
        """The model on its own attention, for a ``with`` block."""
        self._model.set_attn_implementation(self._own[self._model][0])
        try:
            yield self._model
        finally:
            self._model.set_attn_implementation(NAME)

    @classmethod
    def _collected(cls, model: PreTrainedModel) -> None:
        """One is garbage, which may be found out inside of whatever holds the guard, and in its thread."""
        cls._over.append(model)
        cls._tell()

    @classmethod
    def _tell(cls) -> None:
        """Count those that are over; whoever holds the guard does so once it is free."""
        while cls._over and cls._guard.acquire(blocking=False):
            try:
                if cls._over:  # another thread may have been quicker
                    cls._count_down(cls._over.popleft())
            finally:
                cls._guard.release()

    @classmethod
    def _count_down(cls, model: PreTrainedModel) -> None:
        """The caller holds the guard."""
        own, count = cls._own.pop(model)
        if count > 1:
            cls._own[model] = own, count - 1
        else:
            model.set_attn_implementation(own)


@lru_cache(maxsize=1)
def register() -> None:
    """Make ``sfi`` known to transformers, once in a process."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, sfi_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def maskless(model: nn.Module) -> dict[str, Tensor]:
    """Arguments of a model's call that spare it making a mask, which a step does not read.

    A mask of four dimensions passes through transformers' ``create_causal_mask`` as it is; models that make
    masks of their own are given none.
    """
    made = any(hasattr(sys.modules[type(part).__module__], "create_causal_mask") for part in model.modules())
    device = next(model.parameters()).device
    return {"attention_mask": torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=device)} if made else {}


def sfi_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    s_aux: Tensor | None = None,
    sfi_step: Step | Laned | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of one layer, with the signature transformers calls.

    Args:
        query: ``[B, H, T, D]``; in a step B is 1 and T counts the tokens of all rows.
        key, value: ``[B, H_kv, T, D]``, ``[B, H_kv, T, D_v]`` (without a step: L for T).

    Returns:
        ``([B, T, H, D_v], None)``, contiguous.

    Raises:
        ModelError: the layer's attention is not causal.
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if sfi_step is None:
        return _masked(query, key, value, attention_mask, scaling, softcap, s_aux), None
    window = sliding_window if sliding_window and sliding_window < sfi_step.window else None
    if isinstance(sfi_step, Laned):
        flat = (part[0].transpose(0, 1) for part in (query, key, value))
        return attend(*flat, scaling, softcap, window, s_aux)[None], None
    spec = LayerSpec(scaling, softcap, window, s_aux)
    layer: int = module.layer_idx  # type: ignore[assignment]
    if not getattr(module, "is_causal", True):
        raise ModelError(
            f"{type(module).__name__} is not causal: it attends to later tokens too, so nothing it has read "
            "can be kept; use a decoder"
        )
    out = sfi_step.attend(layer, query[0].transpose(0, 1), key[0], value[0], spec)
    return out.contiguous()[None], None  # some models view it


def _masked(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """Plain attention under a boolean mask ``[B, 1, T, L]``; causal without one."""
    groups = query.shape[1] // key.shape[1]
    key, value = (store.repeat_interleave(groups, dim=1) for store in (key, value))
    logits = query.float() @ key.float().transpose(-1, -2) * scaling
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    if mask is None:
        mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device=query.device).tril(
            logits.shape[-1] - logits.shape[-2]
        )
    logits = logits.masked_fill(~mask, float("-inf"))
    if sinks is not None:
        column = sinks.float().view(1, -1, 1, 1).expand(*logits.shape[:-1], 1)
        logits = torch.cat([logits, column], dim=-1)
    weights = logits.softmax(-1)[..., : key.shape[-2]].nan_to_num(0.0)
    return (weights @ value.float()).to(query.dtype).transpose(1, 2).contiguous()
