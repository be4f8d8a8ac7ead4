"""New tokens' keys and values put in their rows' pages, before attention reads them there."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from sfi_kernels.overlap import overlapped, wait
from sfi_kernels.paging import PAGE, Paged
from sfi_kernels.rounding import next_power_of_2
from sfi_kernels.spans import THREADS, Spans


def append(keys: Tensor, values: Tensor, store: Paged, lengths: Tensor, spans: Spans | None = None) -> None:
    """Write each token's entries at its position: token i of a row's n stands at ``length - n + i``.

    Args:
        keys, values: ``[T, H_kv, D]`` and ``[T, H_kv, D_v]``, row after row; may be strided views.
        store: where they go. The pages of these positions are no other row's.
        lengths: ``[R]`` int32, contexts with their new tokens.
        spans: which tokens are whose, those of no row behind them; None: each row has as many.
    """
    rows = len(lengths)
    firsts = (spans or Spans.even(keys, rows)).firsts
    _append[len(keys),](
        keys, values, store.keys, store.values, store.tables, lengths, lengths if firsts is None else firsts,
        rows, store.tables.stride(0), *keys.stride(), *values.stride(), *store.constants(),
        RAGGED=firsts is not None, ROWS=max(THREADS, next_power_of_2(rows)),
        HEADS=next_power_of_2(store.kv_heads), KV_HEADS=store.kv_heads, D=store.dim,
        DV=store.value_dim, WIDE=next_power_of_2(max(store.dim, store.value_dim)), PAGE=PAGE,
        **overlapped(keys.device),
    )  # fmt: skip


@triton.jit(do_not_specialize=["rows"])
def _append(
    new_keys, new_values, keys, values, tables, lengths, firsts, rows, table_stride, new_k_token, new_k_head,
    new_k_dim, new_v_token, new_v_head, new_v_dim, k_page, k_head, k_slot, v_page, v_head, v_slot,
    RAGGED: tl.constexpr, ROWS: tl.constexpr, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr,
    DV: tl.constexpr, WIDE: tl.constexpr, PAGE: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """One token."""
    wait(OVERLAP)
    token = tl.program_id(0)
    row, position = token, tl.load(lengths + token, mask=not RAGGED, other=0) - 1
    if RAGGED:
        if token >= tl.load(firsts + rows):
            return
        index = tl.arange(0, ROWS)
        ends = tl.load(firsts + index + 1, mask=index < rows, other=token + 1)
        row = tl.sum((ends <= token).to(tl.int32))
        position = tl.load(lengths + row) - tl.load(firsts + row + 1) + token
    page = tl.load(tables + row.to(tl.int64) * table_stride + position // PAGE).to(tl.int64)
    slot, token = position % PAGE, token.to(tl.int64)
    head, dims = tl.arange(0, HEADS)[:, None], tl.arange(0, WIDE)[None]
    there = (head < KV_HEADS) & (dims < D)
    k = tl.load(new_keys + token * new_k_token + head * new_k_head + dims * new_k_dim, mask=there)
    tl.store(keys + page * k_page + head * k_head + slot * k_slot + dims, k, mask=there)
    there = (head < KV_HEADS) & (dims < DV)
    v = tl.load(new_values + token * new_v_token + head * new_v_head + dims * new_v_dim, mask=there)
    tl.store(values + page * v_page + head * v_head + slot * v_slot + dims, v, mask=there)
