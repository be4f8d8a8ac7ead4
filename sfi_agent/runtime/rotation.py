"""Queries and keys that the product they are parts of norms and turns itself."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.fx import Graph, Node, map_arg

from sfi_agent.runtime import laned
from sfi_agent.runtime.patterns import (
    Norm,
    equal,
    given_heads,
    matched,
    norms,
    part_as_heads,
    turned_heads,
    uses,
    value_of,
)

aten = torch.ops.aten
ATTEND, ROTATED = laned.attend._opoverload, laned.rotated._opoverload
LINEAR, FUSED = laned.linear._opoverload, laned.fused._opoverload
DIMS = 64, 128, 256
"""Of heads that are turned with their product."""


class _Heads(NamedTuple):
    """Queries or keys on their way from a product to attention.

    Attributes:
        plain: as they are, ``[1, T, heads, D]``, part ``place`` of a product.
        turned: rotated, ``[1, heads, T, D]``.
        cos, sin: ``[1, T, D]``.
        norm: of a head, or None.
    """

    plain: Node
    place: int
    product: Node
    turned: Node
    cos: Node
    sin: Node
    norm: Norm | None


def rotate(graph: Graph, attend: Node) -> None:
    """Have the product that queries and keys are parts of turn them, where nothing else reads it."""
    queries, keys = (_heads(given) for given in attend.args[:2])
    if queries is None or keys is None or not _alike(queries, keys):
        return
    product = queries.product
    begun = _begun(product)
    if begun is None or value_of(product).shape[-1] % value_of(queries.plain).shape[-1]:
        return
    both = queries, keys
    around = queries.cos, queries.sin, *(part.norm.weight for part in both if part.norm)
    if any(node.op == "call_function" for node in around):  # it may come after the product
        return
    counts = [value_of(part.plain).shape[2] for part in both]
    weights = [part.norm.weight if part.norm else None for part in both]
    eps = queries.norm.eps if queries.norm else 0.0
    with graph.inserting_before(product):
        rotated = graph.call_function(ROTATED, (*begun, queries.cos, queries.sin, *counts, *weights, eps))
    rotated.meta["val"] = value_of(product)
    product.replace_all_uses_with(rotated)
    for part in both:
        with graph.inserting_before(part.turned):
            turned = graph.call_function(aten.permute.default, (part.plain, [0, 2, 1, 3]))
        part.turned.replace_all_uses_with(turned)
        _lie_as_given(turned, attend)
    # Attention takes its inputs as they lay when the layer was traced, and would have these copied.
    if lay := attend.meta.get("eager_input_vals"):
        given, named = lay
        lies: Any = map_arg(attend.args[:2], value_of)
        attend.meta["eager_input_vals"] = (*lies, *given[2:]), named


def _begun(product: Node) -> tuple[Any, ...] | None:
    """Inputs, weight, norm and its eps of a product that nothing is added to, and of which all is heads."""
    arguments: Any = product.args
    if len(product.users) != 1:
        return None
    if product.target is LINEAR:
        inputs, weight, bias = arguments
        return None if bias is not None else (inputs, weight, None, 0.0)
    if product.target is FUSED:
        inputs, weight, bias, norm, eps, residual, gated = arguments
        return None if bias is not None or residual is not None or gated else (inputs, weight, norm, eps)
    return None


def _lie_as_given(node: Node, last: Node) -> None:
    """Have the strides of a node and of those that follow it be those of what it is given now."""
    if node is not last:
        target: Any = node.target
        node.meta["val"] = target(*map_arg(node.args, value_of))
        for user in node.users:
            _lie_as_given(user, last)


def _heads(given: Any) -> _Heads | None:
    """Queries or keys as attention is given them, where they were turned as in most decoders."""
    found = matched(given, [given_heads()])
    turned = found["turned"] if found else None
    if not isinstance(turned, Node) or value_of(turned).shape[-1] not in DIMS:
        return None
    dim, dtype = value_of(turned).shape[-1], value_of(turned).dtype
    found = matched(turned, [turned_heads(dim)])
    if found is None:
        return None
    plain, norm, used = found["heads"], None, 1
    if normed := matched(plain, norms(dtype)):
        plain, norm, used = normed["hidden"], Norm(**normed), uses(dtype)
    part = matched(plain, [part_as_heads()])
    if part is None or len(plain.users) != used or len(turned.users) != 1:
        return None
    heads = _Heads(plain, part["place"], part["product"], turned, found["cos"], found["sin"], norm)
    return heads if _fits(heads, dim, dtype) else None


def _fits(heads: _Heads, dim: int, dtype: torch.dtype) -> bool:
    """Whether shapes and dtypes are those of :class:`sfi_agent.contracts.Rotary`."""
    angles = [1, value_of(heads.plain).shape[1], dim]
    shapes: list[tuple[Any, list[Any]]] = [(heads.cos, angles), (heads.sin, angles)]
    if heads.norm:
        shapes.append((heads.norm.weight, [dim]))
    alike = all(
        isinstance(node, Node) and value_of(node).dtype == dtype and equal(value_of(node).shape, shape)
        for node, shape in shapes
    )
    return alike and (heads.norm is None or isinstance(heads.norm.eps, float))


def _alike(queries: _Heads, keys: _Heads) -> bool:
    """Whether they are the first two parts of one product, turned and normed in the same way."""
    eps = [part.norm.eps if part.norm else None for part in (queries, keys)]
    dims = [value_of(part.plain).shape[-1] for part in (queries, keys)]
    same = all(getattr(queries, name) is getattr(keys, name) for name in ("product", "cos", "sin"))
    return same and eps[0] == eps[1] and dims[0] == dims[1] and (queries.place, keys.place) == (0, 1)
