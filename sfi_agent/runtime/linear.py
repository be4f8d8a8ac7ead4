"""Linear layers of many tokens on CPUs that have no bfloat16 arithmetic.

Such a CPU multiplies bfloat16 matrices 7 times slower than float32 ones at 512 tokens, though a single
token, bound by reading the weights, takes two thirds of the time in bfloat16. So steps of several tokens
widen each weight as it is used: twice the time at one token, the same at 4, 0.6 at 8 and 0.15 at 512
(one thread on AVX2; ``python benchmarks/cpu.py linears`` measures it).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FEWEST_TOKENS = 8
"""Below this many tokens the plain bfloat16 product is faster."""
SLAB = 2**20
"""Weight elements widened at a time, into one buffer that stays in cache."""


class Float32Linear(TorchFunctionMode):
    """Within this context, ``linear`` on narrow CPU weights computes in float32 and rounds once.

    Args:
        head: the output embedding's weight, whose products (the logits) are left unrounded.
    """

    def __init__(self, head: Tensor | None = None) -> None:
        super().__init__()
        self._head = head
        self._buffer = torch.empty(SLAB)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is linear and not kwargs and _is_narrow(args[1]):
            return self._widened(*args)
        return func(*args, **(kwargs or {}))

    def _widened(self, inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """``inputs [..., in]`` times ``weight [out, in]``, plus ``bias [out]``."""
        wide, rows = inputs.float(), max(1, SLAB // weight.shape[1])
        dtype = torch.float32 if weight is self._head else inputs.dtype
        out = torch.empty(*inputs.shape[:-1], weight.shape[0], dtype=dtype)
        for first in range(0, weight.shape[0], rows):
            slab = weight[first : first + rows]
            part = None if bias is None else bias[first : first + rows].float()
            out[..., first : first + rows] = linear(wide, self._slab(slab), part)
        return out

    def _slab(self, weight: Tensor) -> Tensor:
        """The weights in float32; in the buffer, unless a single row is larger."""
        if weight.numel() > SLAB:
            return weight.float()
        return self._buffer[: weight.numel()].view(weight.shape).copy_(weight)


def linears(model: PreTrainedModel, tokens: int) -> AbstractContextManager[object]:
    """How a step of this many tokens should compute its linear layers: a context to run it in."""
    if tokens < FEWEST_TOKENS or cpu_has_bfloat16() or not _is_narrow(next(model.parameters())):
        return nullcontext()
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return Float32Linear(None if head is None else cast(Tensor, head.weight))


@lru_cache(maxsize=1)
def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 natively (AVX-512 BF16, AMX, or Arm's BF16)."""
    if not hasattr(torch.cpu, "get_capabilities"):  # torch < 2.12
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))


def _is_narrow(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype in (torch.bfloat16, torch.float16)
