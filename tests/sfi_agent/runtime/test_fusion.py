"""Which nodes of a layer's graph become one, and which do not."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch
from torch.nn.functional import gelu, layer_norm, silu

from sfi_agent.registry import default_registry
from sfi_agent.runtime import laned
from sfi_agent.runtime.laned import Laned, linear
from sfi_agent.testing.tolerances import TOLERANCES

WIDTH, TALL, TOKENS = 32, 24, 3
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


def rms(layer, eps=0.1):
    hidden = layer.hidden.float()
    scaled = hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + eps)
    return layer.scale * scaled.to(layer.hidden.dtype)


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


FUSED = {
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


UNLIKE = (
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

    class Products(Laned):
        def __init__(self):
            self._kernel = default_registry().create("kernel", "torch").rows()

    monkeypatch.setattr(laned._in_progress, "step", Products(), raising=False)

    def kinds(function, layer):
        torch._dynamo.reset()
        with torch.inference_mode(), torch._dynamo.config.patch(specialize_float=True):
            found = torch.compile(function, dynamic=True, options=OPTIONS)(layer)
            wanted, tolerance = function(layer), TOLERANCES[layer.hidden.dtype]
        torch.testing.assert_close(found, wanted, **asdict(tolerance))
        (graph,) = traced
        return [_beside(*node.args) for node in graph.nodes if node.target is FUSED]

    return kinds


def _beside(inputs, weight, bias, norm, eps, residual, gated):
    """What a node computes with its product."""
    there = {"norm": norm is not None, "gate": gated, "residual": residual is not None}
    return tuple(name for name, is_there in there.items() if is_there)


@pytest.mark.parametrize("function", FUSED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_is_computed_with_a_product(function, dtype, fused):
    assert fused(function, Layer(dtype)) == FUSED[function]


def test_float16_does_not_hold_what_has_yet_to_be_scaled(fused):
    assert fused(normed_and_gated, Layer(torch.float16)) == [("gate",)]


@pytest.mark.parametrize("function", UNLIKE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_only_looks_alike(function, dtype, fused):
    assert fused(function, Layer(dtype)) == []
