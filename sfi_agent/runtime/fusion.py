"""Products computed with the norm before them, and with the gate or the residual sum after them.

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
from torch._inductor.pattern_matcher import CallFunction, KeywordArg, Match, PatternExpr
from torch.fx import Graph, Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

from sfi_agent.runtime import laned

aten, convert = torch.ops.aten, torch.ops.prims.convert_element_type.default
LINEAR, FUSED = laned.linear._opoverload, laned.fused._opoverload


class Fusion(CustomGraphPass):
    """Every linear layer's node with what can be computed with it becomes one node."""

    def __call__(self, graph: Graph) -> None:
        for node in list(graph.nodes):
            if node.target is LINEAR:
                _fuse(graph, node)
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


def _wide(value: PatternExpr, dtype: torch.dtype) -> PatternExpr:
    """In float32, where it is used twice."""
    return value if dtype is torch.float32 else CallFunction(convert, value, torch.float32, _users=2)


def _narrow(value: PatternExpr, dtype: torch.dtype) -> PatternExpr:
    return value if dtype is torch.float32 else CallFunction(convert, value, dtype)


def _either(one: PatternExpr, other: PatternExpr) -> Iterator[PatternExpr]:
    """Their product, whichever comes first."""
    yield CallFunction(aten.mul.Tensor, one, other)
    yield CallFunction(aten.mul.Tensor, other, one)
