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


@triton.jit
def written(block, store, at, fresh, source, new, dims, WIDTH: tl.constexpr, tile):
    """The block ``[BLOCK, WIDTH]`` with its new entries, which go to the store on the way.

    Args:
        block: what the store holds; 0 in new places.
        store, at: where the block lies.
        fresh, source: where the new entries lie: ``[BLOCK]`` the first element of each.
        new: ``[BLOCK]``, which places are new.
        dims: ``[WIDTH padded]``.
        tile: of queries; the first one writes.
    """
    mask = new[:, None] & (dims[None] < WIDTH)
    block += tl.load(fresh + source[:, None] + dims[None], mask=mask, other=0.0)
    if tile == 0:
        tl.store(store + at, block, mask=mask)
    return block
