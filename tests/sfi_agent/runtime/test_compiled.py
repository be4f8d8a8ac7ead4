"""A model whose layers are compiled and whose linear layers the lane's kernel computes."""

from __future__ import annotations

import inspect
import re
import warnings
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from sfi_agent.registry import default_registry
from sfi_agent.runtime.compiled import compiled
from sfi_agent.runtime.pages import PAGE, PagedCache
from sfi_agent.runtime.replay import Replayer
from sfi_agent.runtime.row import Row
from sfi_agent.runtime.sharing import pool_for
from sfi_agent.runtime.step import Step, Work

# Inductor's own, as it is imported.
pytestmark = [
    pytest.mark.usefixtures("traced"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),
]


@pytest.fixture
def stepped(tiny, of_family):
    """``stepped(family)``: its model, and what runs a step of two rows of it and gives their logits."""

    def begun(family, graphs=None):
        runtime = of_family(family)
        kernel = default_registry().create("kernel", "torch")
        page_bytes = PAGE * 2 * 2 * 2 * runtime.model.config.head_dim * 4
        pool = pool_for(runtime.model, kernel, runtime.window, 5 * page_bytes)
        rows = [Row(kv=PagedCache(pool)) for _ in range(2)]
        for row, length in zip(rows, (40, 9), strict=True):
            read = Work(tuple(tiny.prompt(length)))
            Step([row], [read], [kernel], runtime.window).run(runtime.model, torch.device("cpu"))
        parts = SimpleNamespace(kernel=kernel, selector=SimpleNamespace(rows_wanted=lambda: 0))
        turns = [SimpleNamespace(row=row, work=Work((7,)), parts=parts) for row in rows]
        replayer = Replayer(runtime.model, pool, runtime.window, graphs=graphs)

        def step():
            found = replayer.run([SimpleNamespace(turn=turn) for turn in turns])
            logits = torch.stack([each.logits[0].clone() for each in found])
            for row, length in zip(rows, (40, 9), strict=True):
                row.truncate(length)
            return logits

        return runtime.model, step

    return begun


@pytest.fixture
def called(monkeypatch):
    """What the kernel was asked for: of each linear layer, its rows and what goes with it."""
    calls = []
    rows = type(default_registry().create("kernel", "torch").rows())
    linear, fused = rows.linear, rows.fused

    def counted(self, inputs, weight, bias):
        calls.append(len(weight))
        return linear(self, inputs, weight, bias)

    def fused_counted(self, inputs, weight, bias, beside):
        found = fused(self, inputs, weight, bias, beside)
        norm, _, residual, gated, rotary = beside
        parts = {
            "norm": norm is not None,
            "gate": gated,
            "residual": residual is not None,
            "rotary": rotary is not None,
        }
        calls[-1] = calls[-1], *(name for name, there in parts.items() if there)
        return found

    monkeypatch.setattr(rows, "linear", counted)
    monkeypatch.setattr(rows, "fused", fused_counted)
    return calls


def sizes(model):
    """Rows of qkv, of what is as wide as the residual stream, and of the gate with its other half."""
    config = model.config
    together = (config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim
    return together, config.hidden_size, 2 * config.intermediate_size


def test_the_kernel_computes_every_linear_layer(stepped, called):
    model, step = stepped("llama")
    wanted = step()
    modules = {name: type(module) for name, module in model.named_modules()}
    called.clear()
    with compiled(model):
        found = step()
    torch.testing.assert_close(found, wanted)
    together, hidden, gates = sizes(model)
    assert called == 2 * [together, hidden, gates, hidden] + [model.config.vocab_size]
    assert {name: type(module) for name, module in model.named_modules()} == modules


def fuse(model, step, called):
    """Have a step fused, which gives what it gives otherwise."""
    wanted = step()
    called.clear()
    with compiled(model, fused=True):
        found = step()
    torch.testing.assert_close(found, wanted)


@pytest.fixture
def small_heads(monkeypatch):
    """Heads as small as the tiny models' are turned with their products, too."""
    from sfi_agent.runtime import rotation

    monkeypatch.setattr(rotation, "DIMS", (8, 16))


@pytest.mark.usefixtures("small_heads")
@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral"])
def test_all_that_is_beside_products_is_computed_with_them(family, stepped, called):
    model, step = stepped(family)
    fuse(model, step, called)
    together, hidden, gates = sizes(model)
    added = (hidden, "residual")
    layer = [(together, "norm", "rotary"), added, (gates, "norm", "gate"), added]
    assert called == 2 * layer + [model.config.vocab_size]


NORM, GATE, SUM, ROTARY = ("norm",), ("norm", "gate"), ("residual",), ("norm", "rotary")
OTHERS = {
    "qwen2": {NORM: 3, GATE: 1, SUM: 2},  # q, k and v have biases and are three products
    "phi3": {NORM: 2, SUM: 2},  # halves in another order
    "gemma2": {ROTARY: 1, NORM: 1},  # what is added was normed first, and the gate is no silu
    "mixtral": {ROTARY: 1, SUM: 1},  # experts and what chooses them are no linear layers
}
"""In each of the layers."""


@pytest.mark.usefixtures("small_heads")
@pytest.mark.parametrize("family", OTHERS)
def test_what_looks_otherwise_stays_as_it_is(family, stepped, called):
    model, step = stepped(family)
    fuse(model, step, called)
    layers = model.config.num_hidden_layers
    beside = Counter(each[1:] for each in called if isinstance(each, tuple))
    assert beside == {kind: layers * count for kind, count in OTHERS[family].items()}


AROUND = ["embed_tokens", "norm"]


@pytest.mark.parametrize(
    ("kind", "around"),
    [("default", [*AROUND, "rotary_emb"]), ("longrope", AROUND), ({"full_attention": "dynamic"}, AROUND)],
    ids=["default", "longrope", "dynamic"],
)
def test_what_is_around_the_layers_is_compiled_unless_it_reads_positions(
    kind, around, stepped, traced, monkeypatch
):
    model, _ = stepped("llama")
    monkeypatch.setattr(model.model.rotary_emb, "rope_type", kind)
    parts = {name: getattr(model.model, name) for name in (*AROUND, "rotary_emb")}
    torch._dynamo.reset()
    with compiled(model):
        found = [name for name, part in parts.items() if part._compiled_call_impl]
        with torch.inference_mode():
            parts["norm"](parts["embed_tokens"](torch.tensor([[3, 5]])))
        assert len(traced) == len(AROUND)
    assert found == around
    assert not any(part._compiled_call_impl for part in parts.values())


@pytest.mark.parametrize("most", [1, 2])
def test_the_kernel_says_which_steps_are_fused(most, stepped, monkeypatch):
    rows = type(default_registry().create("kernel", "torch").rows())
    monkeypatch.setattr(rows, "fuses", lambda self, tokens, dtype: tokens <= most and dtype == torch.float32)
    asked = []
    graphs = SimpleNamespace(
        capture=lambda run, *, fused: asked.append(fused), compiled=lambda function: function
    )
    _, step = stepped("llama", graphs)
    step()
    assert asked == [most == 2]  # two rows of a token each


def test_both_kinds_of_compiled_layers_live_side_by_side(stepped, called):
    model, step = stepped("llama")
    kinds = []
    for fused in (False, True, False, True):
        called.clear()
        with compiled(model, fused=fused):
            step()
        kinds.append(any(isinstance(each, tuple) for each in called))
    assert kinds == [False, True, False, True]


def test_that_products_could_have_fewer_digits_is_said_nowhere(tiny):
    """Inductor warns on a GPU, once a process, in the middle of what a command prints."""
    from torch._inductor import compile_fx

    warned = inspect.getsource(compile_fx._warn_tf32_disabled)
    (said,) = re.findall(r'"(TensorFloat32 tensor cores)', warned)
    with compiled(tiny.model()):
        warnings.warn(said, UserWarning, stacklevel=1)  # an error in tests, if it is one
        with pytest.warns(UserWarning, match="another"):
            warnings.warn("another", UserWarning, stacklevel=1)
