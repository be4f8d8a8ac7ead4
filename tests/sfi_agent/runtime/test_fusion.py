"""Which nodes of a layer's graph become one, and which do not."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import gelu, layer_norm, silu

from sfi_agent.registry import default_registry
from sfi_agent.runtime import laned
from sfi_agent.runtime.laned import Laned, attend, linear
from sfi_agent.testing.tolerances import TOLERANCES

WIDTH, TALL, TOKENS = 32, 24, 3
DIM, HEADS, KV_HEADS = 64, 3, 2
# Inductor's own, as it is imported.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")


class Layer:
    """Some tokens, and the weights of a layer."""

    def __init__(self, dtype=torch.float32):
        torch.manual_seed(0)

        def drawn(*shape):
            return torch.randn(shape).to(dtype)

        self.hidden, self.scale = 3 * drawn(1, TOKENS, WIDTH), drawn(WIDTH)
        self.square, self.wide = drawn(WIDTH, WIDTH) / 6, drawn(2 * TALL, WIDTH) / 6
        self.heads = drawn((HEADS + 2 * KV_HEADS) * DIM, WIDTH) / 6
        self.query_norm, self.key_norm = drawn(DIM), drawn(DIM)
        angles = drawn(1, TOKENS, DIM // 2).repeat(1, 1, 2)
        self.cos, self.sin = angles.cos(), angles.sin()


def rms(layer, eps=0.1):
    return weighted(layer.hidden, layer.scale, eps)


def weighted(inputs, weight, eps=0.1):
    hidden = inputs.float()
    scaled = hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + eps)
    return weight * scaled.to(inputs.dtype)


def halves(layer, inputs, sizes=(TALL, TALL)):
    return linear(inputs, layer.wide, None).split(sizes, -1)


def normed(layer):
    return linear(rms(layer), layer.wide, None)


def normed_twice(layer):
    normed = rms(layer)
    return linear(normed, layer.wide, None), linear(normed, layer.square, None)


def gated(layer):
    gate, up = halves(layer, layer.hidden)
    return silu(gate) * up


def normed_and_gated(layer):
    gate, up = halves(layer, rms(layer))
    return up * silu(gate)


def added(layer):
    return layer.hidden + linear(layer.hidden, layer.square, None)


def normed_and_added(layer):
    return linear(rms(layer), layer.square, layer.scale) + layer.hidden


def parts(layer, product=None, sizes=(HEADS, KV_HEADS, KV_HEADS)):
    """Queries, keys and values ``[1, T, heads, D]`` of one product."""
    product = linear(rms(layer), layer.heads, None) if product is None else product
    split = product.split([count * DIM for count in sizes], -1)
    return [part.view(1, TOKENS, -1, DIM) for part in split]


def turned(heads, cos, sin):
    """As transformers' decoders turn ``[1, T, heads, D]``."""
    heads, half = heads.transpose(1, 2), DIM // 2
    other = torch.cat((-heads[..., half:], heads[..., :half]), -1)
    return heads * cos.unsqueeze(1) + other * sin.unsqueeze(1)


def attended(queries, keys, values):
    flat = (part[0].transpose(0, 1) for part in (queries, keys, values.transpose(1, 2)))
    return attend(*flat, 1.0, None, None, None)


def rotated(layer):
    queries, keys, values = parts(layer)
    return attended(*(turned(part, layer.cos, layer.sin) for part in (queries, keys)), values)


def rotated_as_it_is(layer):
    queries, keys, values = parts(layer, linear(layer.hidden, layer.heads, None))
    return attended(*(turned(part, layer.cos, layer.sin) for part in (queries, keys)), values)


def normed_and_rotated(layer):
    queries, keys, values = parts(layer)
    queries, keys = weighted(queries, layer.query_norm), weighted(keys, layer.key_norm)
    return attended(*(turned(part, layer.cos, layer.sin) for part in (queries, keys)), values)


FUSED = {
    rotated: [("norm", "rotary")],
    rotated_as_it_is: [("rotary",)],
    normed_and_rotated: [("norm", "rotary", "norms of heads")],
    normed: [("norm",)],
    normed_twice: [("norm",), ("norm",)],
    gated: [("gate",)],
    normed_and_gated: [("norm", "gate")],
    added: [("residual",)],
    normed_and_added: [("norm", "residual")],
}


def norm_read_elsewhere(layer):
    normed = rms(layer)
    return normed * 2, linear(normed, layer.wide, None)


def layer_normed(layer):
    return linear(layer_norm(layer.hidden, (WIDTH,), layer.scale), layer.wide, None)


def normed_over_tokens(layer):
    hidden = layer.hidden.float()
    scaled = hidden * torch.rsqrt(hidden.pow(2).mean(-2, keepdim=True) + 0.1)
    return linear(layer.scale * scaled.to(layer.hidden.dtype), layer.wide, None)


def one_weight_for_all(layer):
    hidden = layer.hidden.float()
    scaled = hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + 0.1)
    return linear(layer.scale[:1] * scaled.to(layer.hidden.dtype), layer.wide, None)


def product_read_elsewhere(layer):
    product = linear(layer.hidden, layer.square, None)
    return layer.hidden + product, product * 2


def added_in_part(layer):
    return torch.add(layer.hidden, linear(layer.hidden, layer.square, None), alpha=2)


def added_to_all(layer):
    return layer.scale + linear(layer.hidden, layer.square, None)


def added_number(layer):
    return linear(layer.hidden, layer.square, None) + 1


def other_gate(layer):
    gate, up = halves(layer, layer.hidden)
    return gelu(gate) * up


def second_half_gates(layer):
    up, gate = halves(layer, layer.hidden)
    return silu(gate) * up


def gates_itself(layer):
    gate, _ = halves(layer, layer.hidden)
    return silu(gate) * gate


def gate_read_elsewhere(layer):
    gate, up = halves(layer, layer.hidden)
    return silu(gate) * up, gate + 1


def one_is_normed(layer):
    queries, keys, values = parts(layer, linear(layer.hidden, layer.heads, None))
    keys = weighted(keys, layer.key_norm)
    return attended(*(turned(part, layer.cos, layer.sin) for part in (queries, keys)), values)


def norms_differ(layer):
    queries, keys, values = parts(layer, linear(layer.hidden, layer.heads, None))
    queries, keys = weighted(queries, layer.query_norm), weighted(keys, layer.key_norm, 0.2)
    return attended(*(turned(part, layer.cos, layer.sin) for part in (queries, keys)), values)


def keys_come_first(layer):
    keys, queries, values = parts(layer, linear(layer.hidden, layer.heads, None), (KV_HEADS, HEADS, KV_HEADS))
    return attended(*(turned(part, layer.cos, layer.sin) for part in (queries, keys)), values)


def keys_are_not_turned(layer):
    queries, keys, values = parts(layer, linear(layer.hidden, layer.heads, None))
    return attended(turned(queries, layer.cos, layer.sin), keys.transpose(1, 2), values)


def turned_the_other_way(layer):
    queries, keys, values = parts(layer, linear(layer.hidden, layer.heads, None))
    return attended(turned(queries, layer.cos, layer.sin), turned(keys, layer.sin, layer.cos), values)


def turned_in_float32(layer):
    queries, keys, values = parts(layer, linear(layer.hidden, layer.heads, None))
    cos, sin = layer.cos.double(), layer.sin.double()
    dtype = layer.hidden.dtype
    return attended(*(turned(part, cos, sin).to(dtype) for part in (queries, keys)), values)


def heads_are_read_elsewhere(layer):
    product = linear(layer.hidden, layer.heads, None)
    queries, keys, values = parts(layer, product)
    queries, keys = (turned(part, layer.cos, layer.sin) for part in (queries, keys))
    return attended(queries, keys, values), product * 2


def plain_keys_are_read_elsewhere(layer):
    queries, keys, values = parts(layer, linear(layer.hidden, layer.heads, None))
    turned_queries, turned_keys = (turned(part, layer.cos, layer.sin) for part in (queries, keys))
    return attended(turned_queries, turned_keys, values), keys * 2


def with_a_bias(layer):
    queries, keys, values = parts(layer, linear(layer.hidden, layer.heads, layer.heads[:, 0]))
    return attended(*(turned(part, layer.cos, layer.sin) for part in (queries, keys)), values)


UNLIKE = (
    one_is_normed,
    norms_differ,
    keys_come_first,
    keys_are_not_turned,
    turned_the_other_way,
    turned_in_float32,
    heads_are_read_elsewhere,
    plain_keys_are_read_elsewhere,
    with_a_bias,
    norm_read_elsewhere,
    layer_normed,
    normed_over_tokens,
    one_weight_for_all,
    product_read_elsewhere,
    added_in_part,
    added_to_all,
    added_number,
    other_gate,
    second_half_gates,
    gates_itself,
    gate_read_elsewhere,
)


@pytest.fixture
def fused(traced, monkeypatch):
    """``fused(function, layer)``: what goes with each product, once what it gives is as without."""
    from sfi_agent.runtime.fusion import FUSED, OPTIONS
    from sfi_agent.runtime.rotation import ROTATED

    class Products(Laned):
        def __init__(self):
            self._kernel = default_registry().create("kernel", "torch").rows()

        def attend(self, queries, keys, values, spec):
            return queries + (keys + 2 * values).sum(1, keepdim=True)

    monkeypatch.setattr(laned._in_progress, "step", Products(), raising=False)

    def kinds(function, layer):
        torch._dynamo.reset()
        with torch.inference_mode(), torch._dynamo.config.patch(specialize_float=True):
            found = torch.compile(function, dynamic=True, options=OPTIONS)(layer)
            wanted, tolerance = function(layer), TOLERANCES[layer.hidden.dtype]
        torch.testing.assert_close(found, wanted, **asdict(tolerance))
        (graph,) = traced
        beside = {FUSED: _beside, ROTATED: _beside_heads}
        return [beside[node.target](*node.args) for node in graph.nodes if node.target in beside]

    return kinds


def _beside(inputs, weight, bias, norm, eps, residual, gated):
    """What a node computes with its product."""
    there = {"norm": norm is not None, "gate": gated, "residual": residual is not None}
    return tuple(name for name, is_there in there.items() if is_there)


def _beside_heads(inputs, weight, norm, eps, cos, sin, queries, keys, *norms):
    """The same of heads that are turned."""
    assert (queries, keys) == (HEADS, KV_HEADS)
    there = {"norm": norm is not None, "rotary": True, "norms of heads": norms[0] is not None}
    return tuple(name for name, is_there in there.items() if is_there)


@pytest.mark.parametrize("function", FUSED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_is_computed_with_a_product(function, dtype, fused):
    assert fused(function, Layer(dtype)) == FUSED[function]


@pytest.mark.parametrize(
    ("function", "beside"),
    [(normed_and_gated, "gate"), (normed_and_rotated, "rotary")],
    ids=["gate", "rotary"],
)
def test_float16_does_not_hold_what_has_yet_to_be_scaled(function, beside, fused):
    assert fused(function, Layer(torch.float16))[0][0] == beside


@pytest.mark.parametrize("summed", [1, 2])
@pytest.mark.parametrize("product", [torch.mm, torch.bmm], ids=["mm", "bmm"])
def test_a_product_is_made_element_by_element_where_there_is_nothing_to_sum(product, summed):
    """As inductor itself does from torch 2.13 on, for all devices."""
    from sfi_agent.runtime.fusion import PRODUCTS, Fusion

    lead = [2] if product is torch.bmm else []
    given = torch.rand(*lead, 16, summed), torch.rand(*lead, summed, 3)
    made = make_fx(product)(*given)
    Fusion()(made.graph)
    made.recompile()
    assert any(node.target in PRODUCTS for node in made.graph.nodes) is (summed > 1)
    torch.testing.assert_close(made(*given), product(*given), rtol=0, atol=0)


@pytest.mark.parametrize("function", UNLIKE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_only_looks_alike(function, dtype, fused):
    assert fused(function, Layer(dtype)) == []
