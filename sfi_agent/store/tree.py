"""A plugin's state as JSON, its tensors apart: plain data, from which nothing but data comes back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

DTYPES = frozenset(
    {
        torch.bool,
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
    }
)
"""Of the tensors that can be stored."""


def encode(value: Any, name: str, device: torch.device, tensors: dict[str, Tensor]) -> Any:
    """``value`` as JSON that :func:`decode` reads.

    Args:
        value: as :data:`sfi_agent.contracts.State` allows.
        name: begins the names of its tensors.
        device: where tensors are expected; others are marked as the host's.
        tensors: copies of its tensors are added here, contiguous and on the host.

    Raises:
        TypeError: something else than a State may hold.
    """
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, Tensor):
        return _encode_tensor(value, name, device, tensors)
    if type(value) in (list, tuple):
        parts = [encode(part, f"{name}.{i}", device, tensors) for i, part in enumerate(value)]
        return {type(value).__name__: parts}
    if isinstance(value, dict):
        if wrong := [type(key).__name__ for key in value if type(key) not in (int, str)]:
            raise TypeError(f"{name} has a key of type {wrong[0]}")
        return {
            "dict": [
                [key, encode(part, f"{name}.{i}", device, tensors)]
                for i, (key, part) in enumerate(value.items())
            ]
        }
    raise TypeError(f"{name} is a {type(value).__name__}")


def decode(value: Any, device: torch.device, tensors: Mapping[str, Tensor]) -> Any:
    """What :func:`encode` was given; its tensors on ``device``, save those marked as the host's."""
    if not isinstance(value, dict):
        return value
    ((kind, held),) = value.items()
    if kind == "float":
        return float(held)
    if kind in ("tensor", "host"):
        return tensors[held].to(device if kind == "tensor" else "cpu")
    if kind == "dict":
        return {key: decode(part, device, tensors) for key, part in held}
    parts = [decode(part, device, tensors) for part in held]
    return tuple(parts) if kind == "tuple" else parts


def on_host(tensor: Tensor) -> Tensor:
    """A contiguous copy in host memory, which nobody else writes to; page-locked, if a GPU's, for speed."""
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
    return host.copy_(tensor.detach())


def _encode_tensor(value: Tensor, name: str, device: torch.device, tensors: dict[str, Tensor]) -> Any:
    if value.layout != torch.strided or value.dtype not in DTYPES:
        raise TypeError(f"{name} is a tensor of {value.dtype} in layout {value.layout}")
    tensors[name] = on_host(value)
    return {"tensor" if value.device == device else "host": name}
