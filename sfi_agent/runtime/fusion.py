"""Products computed with the norm before them, and with the gate, the residual sum or the rotation after them.

A pass over the graph that inductor makes of a layer: there each use of a value is seen, whatever the model's
modules are called. What does not look exactly as it does here is left as it is.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch._inductor.pattern_matcher import (
    MULTIPLE,
    CallFunction,
    KeywordArg,
    Match,
    PatternExpr,
)
from torch.fx import Graph, Node, map_arg
from torch.fx.experimental.symbolic_shapes import statically_known_true

from sfi_agent.runtime import laned

aten, convert = torch.ops.aten, torch.ops.prims.convert_element_type.default
LINEAR, FUSED, ROTATED = (each._opoverload for each in (laned.linear, laned.fused, laned.rotated))
ATTEND = laned.attend._opoverload
ROTATED_DIMS = 64, 128, 256
"""Of heads that are rotated with their product."""


class Fusion(CustomGraphPass):
    """Every linear layer's node with what can be computed with it becomes one node."""

    def __call__(self, graph: Graph) -> None:
        for node in list(graph.nodes):
            if node.target is LINEAR:
                _fuse(graph, node)
        for node in list(graph.nodes):
            if node.target is ATTEND:
                _rotate(graph, node)
        graph.eliminate_dead_code()

    def uuid(self) -> Any:
        return get_hash_for_files((__file__,))


OPTIONS = {"post_grad_custom_pre_pass": Fusion()}
"""Of ``torch.compile``. The same object each time, so that what was compiled with it is known again."""


class _Norm(NamedTuple):
    """``hidden`` times the reciprocal of its root mean square, times ``weight``."""

    hidden: Node
    weight: Node
    eps: float


class _After(NamedTuple):
    """The last node of what is computed with a product: itself, a gated half or a sum."""

    last: Node
    residual: Node | None = None
    gated: bool = False


class _Heads(NamedTuple):
    """Queries or keys on their way from a product to attention.

    Attributes:
        plain: as they are, ``[1, T, heads, D]``, part ``place`` of what ``split`` divides.
        turned: rotated, ``[1, heads, T, D]``.
        cos, sin: ``[1, T, D]``.
        norm: of a head, or None.
    """

    plain: Node
    place: int
    split: Node
    turned: Node
    cos: Node
    sin: Node
    norm: _Norm | None


def _fuse(graph: Graph, product: Node) -> None:
    inputs, weight, bias = product.args
    norm, after = _norm(product), _gate(product) or _sum(product) or _After(product)
    if norm is None and after.last is product:
        return
    hidden, scale, eps = norm or (inputs, None, 0.0)
    arguments = (hidden, weight, bias, scale, eps, after.residual, after.gated)
    with graph.inserting_before(after.last):
        fused = graph.call_function(FUSED, arguments)
    fused.meta["val"] = _value(after.last)
    after.last.replace_all_uses_with(fused)


def _rotate(graph: Graph, attend: Node) -> None:
    """Have the product that queries and keys are parts of turn them, where nothing else reads it."""
    queries, keys = (_heads(given) for given in attend.args[:2])
    if queries is None or keys is None or not _alike(queries, keys):
        return
    product: Any = queries.split.args[0]
    if product.target is LINEAR:
        hidden, weight, bias = product.args
        norm, eps, after = None, 0.0, False
    elif product.target is FUSED:
        hidden, weight, bias, norm, eps, residual, gated = product.args
        after = gated or residual is not None
    else:
        return
    if bias is not None or after or len(product.users) != 1:
        return
    around = queries.cos, queries.sin, *(part.norm.weight for part in (queries, keys) if part.norm)
    if any(node.op == "call_function" for node in around):  # it may come after the product
        return
    counts = [_value(part.plain).shape[2] for part in (queries, keys)]
    weights = [part.norm.weight if part.norm else None for part in (queries, keys)]
    head_eps = queries.norm.eps if queries.norm else 0.0
    arguments = (hidden, weight, norm, eps, queries.cos, queries.sin, *counts, *weights, head_eps)
    with graph.inserting_before(product):
        rotated = graph.call_function(ROTATED, arguments)
    rotated.meta["val"] = _value(product)
    product.replace_all_uses_with(rotated)
    for part in (queries, keys):
        with graph.inserting_before(part.turned):
            turned = graph.call_function(aten.permute.default, (part.plain, [0, 2, 1, 3]))
        part.turned.replace_all_uses_with(turned)
        _lie_as_given(turned, attend)
    # Attention takes its inputs as they lay when the layer was traced, and would have these copied.
    if lay := attend.meta.get("eager_input_vals"):
        given, named = lay
        attend.meta["eager_input_vals"] = (*map(_value, attend.args[:2]), *given[2:]), named


def _lie_as_given(node: Node, last: Node) -> None:
    """Have the strides of a node and of those that follow it be those of what it is given now."""
    if node is not last:
        target: Any = node.target
        node.meta["val"] = target(*map_arg(node.args, _value))
        for user in node.users:
            _lie_as_given(user, last)


def _heads(given: Any) -> _Heads | None:
    """Queries or keys as attention is given them, where they were rotated as in most decoders."""
    found = _matched(given, [_given()])
    if found is None:
        return None
    turned = found["turned"]
    if not isinstance(turned, Node) or _value(turned).shape[-1] not in ROTATED_DIMS:
        return None
    dim, dtype = _value(turned).shape[-1], _value(turned).dtype
    rotation = _matched(turned, [_turned(dim // 2)])
    if rotation is None or not (isinstance(rotation["end"], int) and rotation["end"] >= dim):
        return None
    plain, norm = rotation["heads"], None
    if normed := _matched(plain, _norms(dtype)):
        plain, norm = normed["hidden"], _Norm(**normed)
    part = _matched(plain, [_part()])
    if part is None or not isinstance(split := part["split"], Node) or len(plain.users) != 1:
        return None
    if split.target is not aten.split_with_sizes.default or split.args[2] not in (-1, 2):
        return None
    heads = _Heads(plain, part["place"], split, turned, rotation["cos"], rotation["sin"], norm)
    return heads if _fits(heads, dim, dtype) else None


def _fits(heads: _Heads, dim: int, dtype: torch.dtype) -> bool:
    """Whether shapes and dtypes are those of :class:`sfi_agent.contracts.Rotary`."""
    tokens = _value(heads.plain).shape[1]
    around = [heads.cos, heads.sin, *([heads.norm.weight] if heads.norm else [])]
    if not all(isinstance(node, Node) and _value(node).dtype == dtype for node in around):
        return False
    if heads.norm and not (isinstance(heads.norm.eps, float) and _equal(_value(heads.norm.weight).shape, [dim])):
        return False
    return all(_equal(_value(node).shape, [1, tokens, dim]) for node in around[:2])


def _alike(queries: _Heads, keys: _Heads) -> bool:
    """Whether they are the first two parts of one product, rotated and normed in the same way."""
    norms = [part.norm.eps if part.norm else None for part in (queries, keys)]
    dims = [_value(part.plain).shape[-1] for part in (queries, keys)]
    same = all(getattr(queries, name) is getattr(keys, name) for name in ("split", "cos", "sin"))
    return same and norms[0] == norms[1] and dims[0] == dims[1] and (queries.place, keys.place) == (0, 1)


def _norm(product: Node) -> _Norm | None:
    """The norm that the product is of, where nothing but products reads it."""
    arguments: Any = product.args
    inputs, weight, _ = arguments
    dtype = _value(inputs).dtype
    if dtype not in (torch.float32, torch.bfloat16):  # float16 may not hold what has yet to be scaled
        return None
    found = _matched(inputs, _norms(dtype))
    if found is None or any(user.target is not LINEAR for user in inputs.users):
        return None
    norm = _Norm(**found)
    if not (isinstance(norm.weight, Node) and isinstance(norm.eps, float)):
        return None
    same = all(_value(each).dtype == dtype for each in (norm.hidden, norm.weight, weight))
    return norm if same and _equal(_value(norm.weight).shape, _value(norm.hidden).shape[-1:]) else None


def _gate(product: Node) -> _After | None:
    """``silu(first) * second`` of the product's halves."""
    value = _value(product)
    if value.dtype not in (torch.float32, torch.bfloat16, torch.float16) or len(product.users) != 1:
        return None
    (split,) = product.users
    for half in split.users:
        for last in half.users:
            found = _matched(last, _gates(value.dtype))
            if found and found["product"] is product and _equal(found["sizes"], 2 * [value.shape[-1] // 2]):
                return _After(last, gated=True)
    return None


def _sum(product: Node) -> _After | None:
    """The product and something of its shape and dtype."""
    if len(product.users) != 1:
        return None
    (last,) = product.users
    if last.target is not aten.add.Tensor or last.kwargs:
        return None
    residual = last.args[0] if last.args[1] is product else last.args[1]
    if not isinstance(residual, Node):
        return None
    value, other = _value(product), _value(residual)
    fits = isinstance(other, Tensor) and value.dtype == other.dtype and _equal(value.shape, other.shape)
    return _After(last, residual) if fits else None


def _value(node: Node) -> Any:
    """What stands for a node's tensor: its shape and dtype, and no elements."""
    return node.meta["val"]


def _matched(node: Any, patterns: Iterable[PatternExpr]) -> dict[str, Any] | None:
    """What the first pattern that matches names in the graph; a call with options is not what it seems."""
    for pattern in patterns if isinstance(node, Node) else ():
        match = pattern.match(node)
        if isinstance(match, Match) and not any(each.kwargs for each in match.nodes):
            return match.kwargs
    return None


def _equal(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether two shapes are known to be the same."""
    return len(one) == len(other) and all(map(statically_known_true, map(operator.eq, one, other)))


@lru_cache
def _norms(dtype: torch.dtype) -> list[PatternExpr]:
    """An RMS norm as transformers' decoders have it, in float32 and rounded before it is weighted."""
    hidden = _wide(KeywordArg("hidden"), dtype)
    mean = CallFunction(aten.mean.dim, CallFunction(aten.pow.Tensor_Scalar, hidden, 2), [-1], True)
    scale = CallFunction(aten.rsqrt.default, CallFunction(aten.add.Tensor, mean, KeywordArg("eps")))
    scaled = _narrow(CallFunction(aten.mul.Tensor, hidden, scale), dtype)
    return list(_either(KeywordArg("weight"), scaled))


@lru_cache
def _gates(dtype: torch.dtype) -> list[PatternExpr]:
    """A gate as inductor decomposes it, in float32 and rounded before it is multiplied."""
    halves = CallFunction(
        aten.split_with_sizes.default, KeywordArg("product"), KeywordArg("sizes"), -1, _users=2
    )
    used = 2 if dtype is torch.float32 else 1
    gate = _wide(CallFunction(operator.getitem, halves, 0, _users=used), dtype)
    power = CallFunction(aten.exp.default, CallFunction(aten.neg.default, gate))
    silu = CallFunction(aten.div.Tensor, gate, CallFunction(aten.add.Tensor, power, 1))
    return list(_either(_narrow(silu, dtype), CallFunction(operator.getitem, halves, 1)))


@lru_cache
def _given() -> PatternExpr:
    """Heads ``[T, heads, D]`` of ``[1, heads, T, D]``, as attention takes them."""
    first = CallFunction(aten.select.int, KeywordArg("turned"), 0, 0)
    return CallFunction(aten.permute.default, first, [1, 0, 2])


@lru_cache
def _turned(half: int) -> PatternExpr:
    """``heads * cos + turned * sin``."""
    heads = CallFunction(aten.permute.default, KeywordArg("heads"), [0, 2, 1, 3], _users=3)
    cos, sin = (
        CallFunction(aten.unsqueeze.default, KeywordArg(name), 1, _users=MULTIPLE) for name in ("cos", "sin")
    )
    first = CallFunction(aten.slice.Tensor, heads, 3, 0, half)
    second = CallFunction(aten.slice.Tensor, heads, 3, half, KeywordArg("end"))
    turned = CallFunction(aten.cat.default, [CallFunction(aten.neg.default, second), first], -1)
    return CallFunction(
        aten.add.Tensor, CallFunction(aten.mul.Tensor, heads, cos), CallFunction(aten.mul.Tensor, turned, sin)
    )


@lru_cache
def _part() -> PatternExpr:
    """Part of a product, as heads."""
    part = CallFunction(operator.getitem, KeywordArg("split"), KeywordArg("place"))
    return CallFunction([aten.reshape.default, aten.view.default], part, KeywordArg("shape"))


def _wide(value: PatternExpr, dtype: torch.dtype) -> PatternExpr:
    """In float32, where it is used twice."""
    return value if dtype is torch.float32 else CallFunction(convert, value, torch.float32, _users=2)


def _narrow(value: PatternExpr, dtype: torch.dtype) -> PatternExpr:
    return value if dtype is torch.float32 else CallFunction(convert, value, dtype)


def _either(one: PatternExpr, other: PatternExpr) -> Iterator[PatternExpr]:
    """Their product, whichever comes first."""
    yield CallFunction(aten.mul.Tensor, one, other)
    yield CallFunction(aten.mul.Tensor, other, one)
