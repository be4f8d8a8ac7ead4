"""Dense attention of many rows in one launch, their contexts split into parts that run side by side."""

from __future__ import annotations

from torch import Tensor

from sfi_agent.contracts import LayerSpec
from sfi_kernels.paging import PAGE, Paged
from sfi_kernels.spans import Spans
from sfi_kernels.sparse_attention.triton import sparse_attention


def dense_attention(
    queries: Tensor,
    store: Paged,
    lengths: Tensor,
    spec: LayerSpec,
    *,
    longest: int,
    spans: Spans | None = None,
    fresh: tuple[Tensor, Tensor] | None = None,
    rings: tuple[Tensor, int] | None = None,
    counters: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Causal attention of the last tokens of each row over its whole context.

    Sparse attention with nothing listed and everything recent: one kernel serves both, which lets rows of
    both kinds share a launch.

    Args:
        queries: ``[T, H, D]``, row after row; query i of a row's n stands at position ``length - n + i``.
        store: keys and values.
        lengths: ``[R]`` int32, contexts with their new tokens.
        spec: scaling and masks of the layer.
        longest: at least the largest of ``lengths``: how far the launch is laid out.
        spans, fresh, rings, counters, out: as in
            :func:`sfi_kernels.sparse_attention.triton.sparse_attention`.

    Returns:
        ``[T, H, D_v]`` in the queries' dtype, as there.
    """
    spans = spans or Spans.even(queries, len(lengths))
    span = longest if spec.window is None else min(longest, spec.window + spans.most + PAGE)
    return sparse_attention(
        queries,
        store,
        None,
        None,
        None,
        lengths,
        spec,
        longest=span,
        spans=spans,
        fresh=fresh,
        rings=rings,
        counters=counters,
        out=out,
    )
