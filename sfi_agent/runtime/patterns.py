"""What graphs that inductor makes of a layer look like where kernels compute several nodes at once."""

from __future__ import annotations

import operator
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch._inductor.pattern_matcher import MULTIPLE, CallFunction, KeywordArg, Match, PatternExpr
from torch.fx import Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

aten, convert = torch.ops.aten, torch.ops.prims.convert_element_type.default


class Norm(NamedTuple):
    """``hidden`` times the reciprocal of its root mean square, times ``weight``."""

    hidden: Node
    weight: Node
    eps: float


def value_of(node: Node) -> Any:
    """What stands for a node's tensor: its shape and dtype, and no elements."""
    return node.meta["val"]


def matched(node: Any, patterns: Iterable[PatternExpr]) -> dict[str, Any] | None:
    """What the first pattern that matches names in the graph; a call with options is not what it seems."""
    for pattern in patterns if isinstance(node, Node) else ():
        match = pattern.match(node)
        if isinstance(match, Match) and not any(each.kwargs for each in match.nodes):
            return match.kwargs
    return None


def equal(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether two shapes are known to be the same."""
    return len(one) == len(other) and all(map(statically_known_true, map(operator.eq, one, other)))


@lru_cache
def norms(dtype: torch.dtype) -> list[PatternExpr]:
    """An RMS norm as transformers' decoders have it, in float32 and rounded before it is weighted."""
    hidden = _wide(KeywordArg("hidden"), dtype)
    mean = CallFunction(aten.mean.dim, CallFunction(aten.pow.Tensor_Scalar, hidden, 2), [-1], True)
    scale = CallFunction(aten.rsqrt.default, CallFunction(aten.add.Tensor, mean, KeywordArg("eps")))
    scaled = _narrow(CallFunction(aten.mul.Tensor, hidden, scale), dtype)
    return list(_either(KeywordArg("weight"), scaled))


@lru_cache
def gates(dtype: torch.dtype) -> list[PatternExpr]:
    """A gate as inductor decomposes it, in float32 and rounded before it is multiplied."""
    halves = CallFunction(
        aten.split_with_sizes.default, KeywordArg("product"), KeywordArg("sizes"), -1, _users=2
    )
    gate = _wide(CallFunction(operator.getitem, halves, 0, _users=uses(dtype)), dtype)
    power = CallFunction(aten.exp.default, CallFunction(aten.neg.default, gate))
    silu = CallFunction(aten.div.Tensor, gate, CallFunction(aten.add.Tensor, power, 1))
    return list(_either(_narrow(silu, dtype), CallFunction(operator.getitem, halves, 1)))


@lru_cache
def given_heads() -> PatternExpr:
    """Heads ``[T, heads, D]`` of ``[1, heads, T, D]``, as attention takes them."""
    first = CallFunction(aten.select.int, KeywordArg("turned"), 0, 0)
    return CallFunction(aten.permute.default, first, [1, 0, 2])


@lru_cache
def turned_heads(dim: int) -> PatternExpr:
    """``heads * cos + turned * sin`` of heads ``[1, T, heads, dim]``, ``[1, heads, T, dim]``."""
    heads = CallFunction(aten.permute.default, KeywordArg("heads"), [0, 2, 1, 3], _users=3)
    cos, sin = (
        CallFunction(aten.unsqueeze.default, KeywordArg(name), 1, _users=MULTIPLE) for name in ("cos", "sin")
    )
    first = CallFunction(aten.slice.Tensor, heads, 3, 0, dim // 2)
    second = CallFunction(aten.slice.Tensor, heads, 3, dim // 2, sys.maxsize)
    turned = CallFunction(aten.cat.default, [CallFunction(aten.neg.default, second), first], -1)
    return CallFunction(
        aten.add.Tensor, CallFunction(aten.mul.Tensor, heads, cos), CallFunction(aten.mul.Tensor, turned, sin)
    )


@lru_cache
def part_as_heads() -> PatternExpr:
    """A part of what ``split`` divides, as heads."""
    split = CallFunction(
        aten.split_with_sizes.default, KeywordArg("product"), KeywordArg("sizes"), -1, _users=MULTIPLE
    )
    return CallFunction(
        [aten.reshape.default, aten.view.default],
        CallFunction(operator.getitem, split, KeywordArg("place")),
        KeywordArg("shape"),
    )


def uses(dtype: torch.dtype) -> int:
    """How often a value is read whose :func:`_wide` is used twice."""
    return 2 if dtype is torch.float32 else 1


def _wide(value: PatternExpr, dtype: torch.dtype) -> PatternExpr:
    """In float32, where it is used twice."""
    return value if dtype is torch.float32 else CallFunction(convert, value, torch.float32, _users=2)


def _narrow(value: PatternExpr, dtype: torch.dtype) -> PatternExpr:
    return value if dtype is torch.float32 else CallFunction(convert, value, dtype)


def _either(one: PatternExpr, other: PatternExpr) -> Iterator[PatternExpr]:
    """Their product, whichever comes first."""
    yield CallFunction(aten.mul.Tensor, one, other)
    yield CallFunction(aten.mul.Tensor, other, one)
