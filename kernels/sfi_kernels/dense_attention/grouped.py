"""Dense attention that reads each key once for all the query heads that share it."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from sfi_agent.contracts import LayerSpec
from sfi_kernels.dense_attention import reference

PACKED_QUERIES = 64
"""Up to this many tokens, the group's heads are laid out as extra query rows of their KV head."""


def dense_attention(queries: Tensor, keys: Tensor, values: Tensor, spec: LayerSpec) -> Tensor:
    """The contract of :meth:`sfi_agent.contracts.AttentionKernel.dense`."""
    n, length = queries.shape[0], keys.shape[1]
    if spec.window is not None:
        first = max(0, length - n - spec.window + 1)
        keys, values, length = keys[:, first:], values[:, first:], length - first
    if spec.softcap is not None or spec.sinks is not None:
        return reference.dense_attention(queries, keys, values, spec)
    mask = reference.visible(n, length, spec.window, queries.device) if n > 1 else None
    return attend(queries, keys, values, spec.scaling, mask)


def attend(queries: Tensor, keys: Tensor, values: Tensor, scaling: float, mask: Tensor | None) -> Tensor:
    """Softmax attention of grouped query heads.

    Args:
        queries: ``[n, H, D]``.
        keys: ``[H_kv, M, D]``.
        values: ``[H_kv, M, D_v]``.
        scaling: factor on the logits.
        mask: ``[n, M]`` or ``[H_kv, 1, n, M]`` bool, True where a query may look; None: everywhere.

    Returns:
        ``[n, H, D_v]`` in the queries' dtype.
    """
    n, heads, dim = queries.shape
    kv_heads = keys.shape[0]
    if n > PACKED_QUERIES:
        if mask is not None and mask.dim() == 4:
            mask = mask.expand(-1, heads // kv_heads, -1, -1).reshape(1, heads, n, -1)
        out = scaled_dot_product_attention(
            queries.transpose(0, 1)[None], keys[None], values[None], mask, scale=scaling, enable_gqa=True
        )
        return out[0].transpose(0, 1)
    packed = queries.reshape(n, kv_heads, -1, dim).permute(1, 2, 0, 3).reshape(1, kv_heads, -1, dim)
    if mask is not None:  # every head of the group looks where its KV head looks
        mask = mask[None, None] if mask.dim() == 2 else mask
        mask = mask.expand(-1, heads // kv_heads, -1, -1) if n > 1 else mask
        mask = mask.reshape(1, mask.shape[0], -1, mask.shape[-1])
    out = scaled_dot_product_attention(packed, keys[None], values[None], mask, scale=scaling)
    return out.view(kv_heads, -1, n, values.shape[2]).permute(2, 0, 1, 3).reshape(n, heads, -1)
