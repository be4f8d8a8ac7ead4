"""Products computed with the norm before them, and with the gate, the sum or the rotation after them.

A pass over the graph that inductor makes of a layer: there each use of a value is seen, whatever the model's
modules are called. What does not look exactly as it does here is left as it is.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch.fx import Graph, Node

from sfi_agent.runtime import patterns, rotation
from sfi_agent.runtime.patterns import Norm, equal, gates, matched, norms, value_of
from sfi_agent.runtime.rotation import FUSED, LINEAR

PRODUCTS = torch.ops.aten.mm.default, torch.ops.aten.bmm.default


class Fusion(CustomGraphPass):
    """Every linear layer's node with what can be computed with it becomes one node.

    So do the positions' product with the frequencies of a rotary embedding and what is computed of it, once
    inductor is told that there is nothing to sum, which it sees itself from torch 2.13 on.
    """

    def __call__(self, graph: Graph) -> None:
        for node in list(graph.nodes):
            if node.target is LINEAR:
                _fuse(graph, node)
            if node.target in PRODUCTS:
                _multiply(graph, node)
        for node in list(graph.nodes):
            if node.target is rotation.ATTEND:
                rotation.rotate(graph, node)
        graph.eliminate_dead_code()

    def uuid(self) -> Any:
        return get_hash_for_files((__file__, patterns.__file__, rotation.__file__))


OPTIONS = {"post_grad_custom_pre_pass": Fusion()}
"""Of ``torch.compile``. The same object each time, so that what was compiled with it is known again."""


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
    fused.meta["val"] = value_of(after.last)
    after.last.replace_all_uses_with(fused)


def _multiply(graph: Graph, product: Node) -> None:
    """A product of columns by rows, ``[..., M, 1]`` by ``[..., 1, N]``, element by element."""
    arguments: Any = product.args
    column, row = arguments
    if not equal(value_of(column).shape[-1:], [1]):
        return
    with graph.inserting_before(product):
        outer = graph.call_function(torch.ops.aten.mul.Tensor, (column, row))
    outer.meta["val"] = value_of(product)
    product.replace_all_uses_with(outer)


def _norm(product: Node) -> Norm | None:
    """The norm that the product is of, where nothing but products reads it."""
    arguments: Any = product.args
    inputs, weight, _ = arguments
    dtype = value_of(inputs).dtype
    if dtype not in (torch.float32, torch.bfloat16):  # float16 may not hold what has yet to be scaled
        return None
    found = matched(inputs, norms(dtype))
    if found is None or any(user.target is not LINEAR for user in inputs.users):
        return None
    norm = Norm(**found)
    if not (isinstance(norm.weight, Node) and isinstance(norm.eps, float)):
        return None
    same = all(value_of(each).dtype == dtype for each in (norm.hidden, norm.weight, weight))
    return norm if same and equal(value_of(norm.weight).shape, value_of(norm.hidden).shape[-1:]) else None


def _gate(product: Node) -> _After | None:
    """``silu(first) * second`` of the product's halves."""
    value = value_of(product)
    if value.dtype not in (torch.float32, torch.bfloat16, torch.float16) or len(product.users) != 1:
        return None
    (split,) = product.users
    for half in split.users:
        for last in half.users:
            found = matched(last, gates(value.dtype))
            if found and found["product"] is product and equal(found["sizes"], 2 * [value.shape[-1] // 2]):
                return _After(last, gated=True)
    return None


def _sum(product: Node) -> _After | None:
    """The product and something of its shape and dtype."""
    if len(product.users) != 1:
        return None
    (last,) = product.users
    if last.target is not torch.ops.aten.add.Tensor or last.kwargs:
        return None
    residual = last.args[0] if last.args[1] is product else last.args[1]
    if not isinstance(residual, Node):
        return None
    value, other = value_of(product), value_of(residual)
    fits = isinstance(other, Tensor) and value.dtype == other.dtype and equal(value.shape, other.shape)
    return _After(last, residual) if fits else None
