"""Attention mass of several queries over a stretch of keys, in plain PyTorch."""

from __future__ import annotations

from torch import Tensor

from sfi_agent.contracts import LayerSpec


def mass(queries: Tensor, keys: Tensor, spec: LayerSpec, power: float) -> tuple[Tensor, Tensor]:
    """One layer's power mean, over a group's heads and the queries, of each key's probability.

    Args:
        queries: ``[n, H, D]``, all of positions behind the keys.
        keys: ``[H_kv, P, D]``.
        spec: ``scaling`` and ``softcap`` are applied.
        power: exponent; 1 is the plain mean.

    Returns:
        masses ``[H_kv, P]`` and the keys' norms ``[H_kv, P]``, float32.
    """
    kv_heads, _, dim = keys.shape
    grouped = queries.float().transpose(0, 1).reshape(kv_heads, -1, dim)
    logits = spec.logits(grouped @ keys.float().transpose(1, 2))
    mean = logits.softmax(-1).pow(power).mean(1).pow(1 / power)
    return mean, keys.float().norm(dim=-1)
