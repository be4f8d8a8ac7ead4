"""What the attention kernels do with a block of keys and values once it is there."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def updated(q, k, v, seen, top, total, out, scaling, softcap, CAPPED: tl.constexpr):
    """Softmax over one more block (Milakov and Gimelshein 2018, arXiv 1805.02867).

    Args:
        q, k, v: ``[TILE, D]`` queries, ``[BLOCK, D]`` keys, ``[BLOCK, D_v]`` values.
        seen: ``[TILE, BLOCK]`` or ``[1, BLOCK]``, which of them each query sees.
        top, total, out: so far: ``[TILE]`` highest logit, ``[TILE]`` sum of ``exp(logit - top)``, and
            ``[TILE, D_v]`` sum of the values so weighted.

    Returns:
        the three, with this block.
    """
    logits = tl.dot(q, tl.trans(k), input_precision="ieee") * scaling
    if CAPPED:  # softcap * tanh(logits / softcap)
        logits = softcap * (2 * tl.sigmoid(2 * logits / softcap) - 1)
    logits = tl.where(seen, logits, float("-inf"))
    higher = tl.maximum(top, tl.max(logits, 1))
    base = tl.where(higher == float("-inf"), 0.0, higher)
    weights = tl.exp(logits - base[:, None])
    kept = tl.exp(top - base)
    total = total * kept + tl.sum(weights, 1)
    out = out * kept[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
    return higher, total, out


LOG2E, LN2 = tl.constexpr(1.4426950408889634), tl.constexpr(0.6931471805599453)


@triton.jit
def whole(q, k, v, top, total, out, scaling, softcap, CAPPED: tl.constexpr):
    """As :func:`updated`, of a block that each query sees all of; ``top`` is the highest exponent of 2.

    Where there is no cap the scale is part of the exponent: one operation for each product fewer, of few.
    """
    logits = tl.dot(q, tl.trans(k), input_precision="ieee")
    factor = scaling * LOG2E
    if CAPPED:
        logits = softcap * (2 * tl.sigmoid(2 * logits * scaling / softcap) - 1)
        factor = LOG2E
    higher = tl.maximum(top, tl.max(logits, 1) * factor)
    weights = tl.exp2(logits * factor - higher[:, None])
    kept = tl.exp2(top - higher)
    total = total * kept + tl.sum(weights, 1)
    out = out * kept[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
    return higher, total, out


@triton.jit
def binary(top):
    """Highest logits as exponents of 2."""
    return top * LOG2E


@triton.jit
def natural(top):
    """Exponents of 2 as highest logits."""
    return top * LN2
