"""Attention over listed positions and everything recent, read where they lie."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from sfi_agent.contracts import LayerSpec
from sfi_kernels.joining import combine, is_last, joined, shared_counters
from sfi_kernels.online import binary, natural, updated, whole
from sfi_kernels.overlap import release, wait, wait_within
from sfi_kernels.paging import Paged
from sfi_kernels.rounding import next_power_of_2
from sfi_kernels.spans import THREADS, Spans, item, leave
from sfi_kernels.splits import Launch


def sparse_attention(
    queries: Tensor,
    store: Paged,
    listed: Tensor | None,
    counts: Tensor | None,
    tails: Tensor | None,
    lengths: Tensor,
    spec: LayerSpec,
    *,
    longest: int,
    chosen: bool = False,
    shares: Tensor | None = None,
    spans: Spans | None = None,
    fresh: tuple[Tensor, Tensor] | None = None,
    rings: tuple[Tensor, int] | None = None,
    counters: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Attention of each row's last tokens over ``listed`` and everything from ``tails`` on.

    A row whose count and tail are 0 attends to everything.

    Args:
        queries: ``[T, H, D]``, row after row; query i of a row's n stands at position ``length - n + i``.
        store: keys and values.
        listed: ``[R, H_kv, S]`` int32 places of the storage, ``PAGE * page + slot``, of positions below the
            row's tail, in any order; -1 is passed over.
        counts: ``[R, H_kv]`` int32, how many of ``listed`` to read.
        tails: ``[R]`` int32, first recent position, at most ``length - n``. The three may be None: nothing is
            listed, everything is recent.
        lengths: ``[R]`` int32, contexts with their new tokens.
        spec: scaling and masks of the layer; its ``window`` is None where something is listed.
        longest: at least the largest ``count + length - tail``: how far the launch is laid out.
        chosen: whether what is listed comes from the launch before.
        shares: ``[R]`` int32, blocks of a program at least (:func:`sfi_kernels.splits.share_for`) where a few
            rows may attend to everything among others that do not; or None.
        spans: which tokens are whose; None: each row has as many.
        fresh: keys ``[T, H_kv, D]`` and values ``[T, H_kv, D_v]`` of the new tokens, to be written
            to ``store`` on the way; None: they are in it. Where they are given, and something is listed that
            is not ``chosen``, the launch before may write queries, these, and what is only other rows', and
            nothing else: the rest may be read before it is done.
        rings: ``facts`` of :class:`sfi_agent.contracts.Rings` and the layer: where queries are kept, or None.
        counters: as in :func:`sfi_kernels.linear.triton.linear`.
        out: to be written; None: a new one.

    Returns:
        ``[T, H, D_v]`` in the queries' dtype; zeros behind the last row's tokens, if rows may have several.
        Rows that ``spans`` leave to another launch are left as they are.
    """
    rows = len(lengths)
    spans = spans or Spans.even(queries, rows)
    mixed = shares is not None or spans.some
    launch = Launch.of(queries, store, spec, fresh, longest, rows, spans, mixed=mixed)
    counters = shared_counters(queries.device) if counters is None else counters
    if out is None:
        out = queries.new_empty(*queries.shape[:2], store.value_dim)
    sinks = None if spec.sinks is None else spec.sinks.float().contiguous()
    placeholder = (lengths, lengths, lengths)
    single = spans.most == 1 and launch.constants["SMALL"]
    early = listed is not None and fresh is not None and not chosen and single
    list_stride = 0 if listed is None else listed.stride(1)
    facts, layer = rings or (lengths, 0)
    _attend[launch.grid](
        *launch.tokens, store.keys, store.values, store.tables,
        *((listed, counts, tails) if listed is not None else placeholder), lengths,
        launch.partial, launch.stats, counters, out if sinks is None else sinks, out, facts,
        lengths if shares is None else shares, lengths if spans.firsts is None else spans.firsts,
        layer, len(queries), rows, launch.parts, launch.slots, spec.scaling, spec.softcap or 0.0,
        store.tables.stride(0), list_stride, *launch.strides, *store.constants(),
        LISTED=listed is not None, WINDOW=spec.window or 0, SINKS=sinks is not None,
        LEAST=spans.least, ROWS=max(THREADS, next_power_of_2(rows)), RAGGED=spans.firsts is not None,
        EARLY=early, RINGS=rings is not None, SHARED=shares is not None,
        WHOLE=launch.whole if listed is None and not spec.window else 0, **launch.constants,
    )  # fmt: skip
    if not launch.constants["PARTS"]:
        combine(launch.partial, launch.stats, counters if spans.most > 1 else None, sinks, out)
    return out


@triton.jit
def _with_new(
    q, new_keys, new_values, keys, values, table, base, n, head, start, token, tile, split, splits, top,
    total, out, scaling, softcap, new_k_token, new_v_token, k_page, k_slot, v_page, v_slot,
    MOST: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, PAGE: tl.constexpr, WIDE: tl.constexpr,
    WIDE_V: tl.constexpr, WINDOW: tl.constexpr, CAPPED: tl.constexpr, FRESH: tl.constexpr, NEW: tl.constexpr,
):  # fmt: skip
    """What the last part sees more: new tokens, read where they come from; the first tile writes them."""
    if FRESH:
        if split == splits - 1:
            dims, vdims = tl.arange(0, WIDE), tl.arange(0, WIDE_V)
            for block in tl.static_range((MOST + NEW - 1) // NEW):
                new = block * NEW + tl.arange(0, NEW)
                there = new < n
                source = (base + new).to(tl.int64)
                k_mask, v_mask = there[:, None] & (dims[None] < D), there[:, None] & (vdims[None] < DV)
                k_from = new_keys + (source * new_k_token + head * D)[:, None] + dims[None]
                v_from = new_values + (source * new_v_token + head * DV)[:, None] + vdims[None]
                k, v = tl.load(k_from, mask=k_mask, other=0.0), tl.load(v_from, mask=v_mask, other=0.0)
                if tile == 0:
                    position = start + new
                    page = tl.load(table + position // PAGE, mask=there, other=0).to(tl.int64)
                    k_at = page * k_page + position % PAGE * k_slot
                    v_at = page * v_page + position % PAGE * v_slot
                    tl.store(keys + k_at[:, None] + dims[None], k, mask=k_mask)
                    tl.store(values + v_at[:, None] + vdims[None], v, mask=v_mask)
                seen = there[None] & (new[None] <= token[:, None])
                if WINDOW > 0:
                    seen &= new[None] > token[:, None] - WINDOW
                top, total, out = updated(q, k, v, seen, top, total, out, scaling, softcap, CAPPED)
    return top, total, out


@triton.jit
def _asked(
    queries, at, within, live, facts, row, rows, layer, position, token, split, HEADS: tl.constexpr,
    D: tl.constexpr, WIDE: tl.constexpr, RINGS: tl.constexpr,
):  # fmt: skip
    """A tile of queries ``[TILE, WIDE]``; the first part puts them in the row's ring, if it has one."""
    dims = tl.arange(0, WIDE)
    there = live[:, None] & (dims[None] < D)
    q = tl.load(queries + at[:, None] + dims[None], mask=there, other=0.0)
    if RINGS:
        if split == 0:
            lower, upper = tl.load(facts + row).to(tl.int64), tl.load(facts + rows + row).to(tl.int64)
            size, count = tl.load(facts + 2 * rows + row), tl.load(facts + 3 * rows + row)
            ring = ((upper << 32) | (lower & 0xFFFFFFFF)).to(tl.pointer_type(q.dtype))
            slot = position % tl.maximum(size, 1)
            to = (layer * size + slot).to(tl.int64) * (HEADS * D) + within
            kept = (token < count) & (token >= count - size)  # of tokens that share a slot, the latest
            tl.store(ring + to[:, None] + dims[None], q, mask=there & kept[:, None])
    return q


@triton.jit(do_not_specialize=["layer", "tokens", "rows", "most", "slots"])
def _attend(
    queries, new_keys, new_values, keys, values, tables, listed, counts, tails, lengths, partial, stats,
    done, sinks, result, facts, shares, firsts, layer, tokens, rows, most, slots, scaling, softcap,
    table_stride, list_stride, q_token, new_k_token, new_v_token, k_page, k_head, k_slot, v_page, v_head,
    v_slot,
    MOST: tl.constexpr, LEAST: tl.constexpr, ROWS: tl.constexpr, RAGGED: tl.constexpr, HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, PAGE: tl.constexpr, TILE: tl.constexpr,
    WIDE: tl.constexpr, WIDE_V: tl.constexpr, LISTED: tl.constexpr, WINDOW: tl.constexpr,
    CAPPED: tl.constexpr, FRESH: tl.constexpr, NEW: tl.constexpr, SHARED: tl.constexpr,
    PARTS: tl.constexpr, SMALL: tl.constexpr, MANY: tl.constexpr,
    SINKS: tl.constexpr, EARLY: tl.constexpr, RINGS: tl.constexpr, WHOLE: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    """One row and KV head, one tile of its queries, one part of its memory: listed places, then pages."""
    GROUP: tl.constexpr = HEADS // KV_HEADS
    if MOST == 1:
        row, head = tl.program_id(0) // KV_HEADS, tl.program_id(0) % KV_HEADS
        tile, split, parts = tl.program_id(1), tl.program_id(2), most
        base, n = row, 1
        if RAGGED:
            base = tl.load(firsts + row)
            if tl.load(firsts + row + 1) - base != 1:
                return
    else:
        if LEAST == 1:  # all rows' launch: the one before it may have made ``firsts``
            wait(OVERLAP)
        row, head, tile, split, parts = item(
            firsts, rows, slots, most, LEAST, MOST, GROUP, KV_HEADS, TILE, ROWS
        )
        if PARTS > 0:  # else the launch that joins parts does this
            if tl.program_id(0) < KV_HEADS:
                wait(OVERLAP)
                leave(
                    result, tl.load(firsts + rows), tokens, tl.program_id(0), HEADS, GROUP, DV, TILE, WIDE_V
                )
        if split >= parts:
            return
        base = tl.load(firsts + row)  # the row's first token, and how many it has
        n = tl.load(firsts + row + 1) - base
    if not EARLY:
        wait(OVERLAP)
    length = tl.load(lengths + row)
    start = length - n  # position of the first new token
    count, tail, share = 0, 0, 0
    if SHARED:
        share = tl.load(shares + row)
    if LISTED:
        count, tail = tl.load(counts + row * KV_HEADS + head), tl.load(tails + row)
    if WINDOW > 0:
        tail = tl.maximum(start - WINDOW + 1, 0)
    held = start if FRESH else length  # positions that are read from the storage end here
    list_at = listed + (row * KV_HEADS + head).to(tl.int64) * list_stride

    lane = tile * TILE + tl.arange(0, TILE)  # a query token's heads of this group lie side by side
    token = lane // GROUP
    live = token < n
    here = start + token
    dims, vdims, in_page = tl.arange(0, WIDE), tl.arange(0, WIDE_V), tl.arange(0, PAGE)
    at = (base + token) * HEADS + head * GROUP + lane % GROUP
    within = (head * GROUP + lane % GROUP) * D
    q_at = (base + token).to(tl.int64) * q_token + within

    lists, first = tl.cdiv(count, PAGE), tail // PAGE
    blocks = lists + tl.cdiv(held, PAGE) - first
    each = tl.maximum(tl.maximum(tl.cdiv(blocks, parts), share), 1)
    splits = parts
    if PARTS > 1:  # the last of those that have something to do joins them: the others need not be here
        splits = tl.maximum(tl.cdiv(blocks, each), 1)
        if split >= splits:
            return
    begin, end = split * each, tl.minimum(split * each + each, blocks)
    table = tables + row.to(tl.int64) * table_stride
    keys += head.to(tl.int64) * k_head
    values += head.to(tl.int64) * v_head

    top = tl.full([TILE], float("-inf"), tl.float32)
    total = tl.zeros([TILE], tl.float32)
    out = tl.zeros([TILE, WIDE_V], tl.float32)
    if EARLY:
        q = tl.zeros([TILE, WIDE], queries.dtype.element_ty)
    else:
        q = _asked(
            queries, q_at, within, live, facts, row, rows, layer, here, token, split, HEADS, D, WIDE, RINGS
        )
        # Here where it can be: behind the loop it costs the loop registers.
        top, total, out = _with_new(
            q, new_keys, new_values, keys, values, table, base, n, head, start, token, tile, split, splits,
            top, total, out, scaling, softcap, new_k_token, new_v_token, k_page, k_slot, v_page, v_slot, MOST,
            D, DV, PAGE, WIDE, WIDE_V, WINDOW, CAPPED, FRESH, NEW,
        )  # fmt: skip
    masked = begin  # the first block of which some tokens see less than others, or all none
    if WHOLE:
        top = binary(top)
        several = tl.arange(0, WHOLE * PAGE)
        turns = tl.maximum(tl.minimum(end, start // PAGE) - begin, 0) // WHOLE
        for turn in range(turns):
            page = tl.load(table + begin + turn * WHOLE + several // PAGE).to(tl.int64)
            k_at, v_at = page * k_page + several % PAGE * k_slot, page * v_page + several % PAGE * v_slot
            k = tl.load(keys + k_at[:, None] + dims[None], mask=dims[None] < D, other=0.0)
            v = tl.load(values + v_at[:, None] + vdims[None], mask=vdims[None] < DV, other=0.0)
            top, total, out = whole(q, k, v, top, total, out, scaling, softcap, CAPPED)
        top = natural(top)
        masked += turns * WHOLE
    # Loads in this loop depend on nothing but loads, and so run ahead: the first ones, of what no kernel
    # under way writes, before the queries are there.
    for block in range(masked, end):
        index = first + block - lists
        page = tl.load(table + index, mask=index >= first, other=0)
        position = index * PAGE + in_page
        used = (position >= tail) & (position < held)
        slot = in_page
        if LISTED:
            listed_at = block * PAGE + in_page
            place = tl.load(list_at + listed_at, mask=listed_at < count, other=-1)
            used = tl.where(block < lists, place >= 0, used)
            place = tl.where(block < lists, place, page * PAGE + slot).to(tl.uint32)
            page, slot = place // PAGE, place % PAGE
        page = page.to(tl.int64)
        k_at, v_at = page * k_page + slot * k_slot, page * v_page + slot * v_slot
        k = tl.load(keys + k_at[:, None] + dims[None], mask=used[:, None] & (dims[None] < D), other=0.0)
        v = tl.load(values + v_at[:, None] + vdims[None], mask=used[:, None] & (vdims[None] < DV), other=0.0)
        seen = used[None]
        if not FRESH:
            seen &= (block < lists) | (position[None] <= here[:, None])
        if WINDOW > 0:
            seen &= position[None] > here[:, None] - WINDOW
        if EARLY:
            if block == begin:
                wait_within(OVERLAP)
                q = _asked(
                    queries, q_at, within, live, facts, row, rows, layer, here, token, split, HEADS, D, WIDE,
                    RINGS,
                )  # fmt: skip
        top, total, out = updated(q, k, v, seen, top, total, out, scaling, softcap, CAPPED)
    if EARLY:
        if begin >= end:
            wait(OVERLAP)
            q = _asked(
                queries, q_at, within, live, facts, row, rows, layer, here, token, split, HEADS, D, WIDE,
                RINGS,
            )  # fmt: skip
        top, total, out = _with_new(
            q, new_keys, new_values, keys, values, table, base, n, head, start, token, tile, split, splits,
            top, total, out, scaling, softcap, new_k_token, new_v_token, k_page, k_slot, v_page, v_slot, MOST,
            D, DV, PAGE, WIDE, WIDE_V, WINDOW, CAPPED, FRESH, NEW,
        )  # fmt: skip
    release(OVERLAP)
    last = True
    if PARTS != 1:
        to = at.to(tl.int64) * most + split
        if (begin < end) | (split == splits - 1):  # else there is nothing, and its sums are not read
            tl.store(partial + to[:, None] * DV + vdims[None], out, mask=live[:, None] & (vdims[None] < DV))
        tl.store(stats + to * 2, top, mask=live)
        tl.store(stats + to * 2 + 1, total, mask=live)
        last = False
        if PARTS == 0 and MOST > 1:
            if split == 0:
                tl.store(done + at, tl.zeros([TILE], tl.int32) + splits, mask=live)
        if PARTS:
            if MOST == 1:
                done += tl.program_id(0) * tl.num_programs(1) + tile
            else:  # a row has no more tiles than tokens
                done += (base + tile) * KV_HEADS + head
            last = is_last(done, splits)
    if last:
        if PARTS > 1:
            tl.store(done, 0)
            parts_at = at.to(tl.int64) * most
            top, total, out = joined(partial, stats, parts_at, splits, live, vdims, PARTS, DV, SMALL, MANY)
        if SINKS:
            sink = tl.load(sinks + head * GROUP + lane % GROUP)
            higher = tl.maximum(top, sink)
            kept = tl.exp(top - higher)
            total, out = total * kept + tl.exp(sink - higher), out * kept[:, None]
        out /= tl.where(total > 0, total, 1.0)[:, None]
        out_at = result + at.to(tl.int64)[:, None] * DV + vdims[None]
        tl.store(out_at, out.to(result.dtype.element_ty), mask=live[:, None] & (vdims[None] < DV))
