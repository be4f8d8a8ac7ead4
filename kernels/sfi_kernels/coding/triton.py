"""Codes of keys where they lie: of all layers and heads, in one launch."""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from sfi_kernels.paging import PAGE
from sfi_kernels.rounding import cdiv, next_power_of_2

KEYS, WARPS = 16, 2
"""Of a program. One number for all, so that a key has one code however many are coded with it."""


def code(
    keys: Tensor,
    codes: Tensor,
    scales: Tensor,
    places: Tensor,
    mean: Tensor,
    rotation: Tensor,
    levels: Sequence[float],
) -> None:
    """Write the codes and scales of keys: ``reference.py``'s, in float32, the lowest bits first.

    Args:
        keys: ``[layers, pages, H_kv, PAGE, D]``, D a multiple of 16.
        codes: ``[layers, pages, H_kv, PAGE, D * bits / 8]`` uint8.
        scales: ``[layers, pages, H_kv, PAGE, 1]`` float16.
        places: ``[n]`` int64, ``PAGE * page + slot``.
        mean: ``[layers, H_kv, D]`` float32, taken from the keys first.
        rotation: ``[D, D]`` float32.
        levels: ``2 ** bits``, ascending.
    """
    layers, _, kv_heads, _, dim = keys.shape
    _code[cdiv(len(places), KEYS), layers * kv_heads](
        keys, codes, scales, places, mean.contiguous(), rotation, len(places),
        *keys.stride()[:4], *codes.stride()[:4], *scales.stride()[:4], *rotation.stride(),
        KV_HEADS=kv_heads, D=dim, WIDE=next_power_of_2(dim), COLUMNS=32 if dim % 32 == 0 else 16,
        BITS=(len(levels) - 1).bit_length(), LEVELS=tuple(levels), PAGE=PAGE, KEYS=KEYS, num_warps=WARPS,
    )  # fmt: skip


@triton.jit(do_not_specialize=["count"])
def _code(
    keys, codes, scales, places, mean, rotation, count,
    k_layer, k_page, k_head, k_slot, c_layer, c_page, c_head, c_slot, s_layer, s_page, s_head, s_slot,
    r_row, r_column,
    KV_HEADS: tl.constexpr, D: tl.constexpr, WIDE: tl.constexpr, COLUMNS: tl.constexpr, BITS: tl.constexpr,
    LEVELS: tl.constexpr, PAGE: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Some keys of one layer and KV head."""
    EACH: tl.constexpr = 8 // BITS
    layer, head = (tl.program_id(1) // KV_HEADS).to(tl.int64), tl.program_id(1) % KV_HEADS
    item, dims, column = (
        tl.program_id(0) * KEYS + tl.arange(0, KEYS),
        tl.arange(0, WIDE),
        tl.arange(0, COLUMNS),
    )
    there = item < count
    place = tl.load(places + item, mask=there, other=0)
    page, slot = place // PAGE, place % PAGE
    at = keys + layer * k_layer + head * k_head + (page * k_page + slot * k_slot)[:, None] + dims[None]
    key = tl.load(at, mask=there[:, None] & (dims[None] < D), other=0.0).to(tl.float32)
    key -= tl.load(mean + tl.program_id(1) * D + dims, mask=dims < D, other=0.0)[None]
    # As large as the rotated key.
    own = tl.sum(key * key, 1)
    size = tl.maximum(tl.sqrt(own / D), 1e-12)
    product = tl.zeros([KEYS], tl.float32)
    to = codes + layer * c_layer + head * c_head + page * c_page + slot * c_slot
    for first in range(0, D, COLUMNS):
        turn_at = rotation + dims[:, None] * r_row + (first + column)[None] * r_column
        turn = tl.load(turn_at, mask=dims[:, None] < D, other=0.0)
        turned = tl.dot(key, turn, input_precision="tf32x3")
        even = turned / size[:, None]
        symbol = tl.zeros([KEYS, COLUMNS], tl.int32)
        level = tl.full([KEYS, COLUMNS], LEVELS[0], tl.float32)
        for each in tl.static_range(1, 2**BITS):
            above = even > (LEVELS[each] + LEVELS[each - 1]) / 2
            symbol += above.to(tl.int32)
            level = tl.where(above, LEVELS[each], level)
        product += tl.sum(turned * level, 1)
        bits = tl.reshape(symbol, [KEYS, COLUMNS // EACH, EACH]) << (tl.arange(0, EACH) * BITS)[None, None]
        byte = first // EACH + tl.arange(0, COLUMNS // EACH)
        tl.store(to[:, None] + byte[None], tl.sum(bits, 2).to(tl.uint8), mask=there[:, None])
    scale = own / tl.maximum(product, 1e-12)
    tl.store(
        scales + layer * s_layer + head * s_head + page * s_page + slot * s_slot,
        scale.to(tl.float16),
        mask=there,
    )
