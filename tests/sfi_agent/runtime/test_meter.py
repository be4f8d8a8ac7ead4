"""What a turn is said to cost, counted by hand; and linear layers widened to float32."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import linear

from sfi_agent.contracts import LayerSpec
from sfi_agent.runtime import memory
from sfi_agent.runtime.kv import KVCache, LayerKV, visible
from sfi_agent.runtime.linear import SLAB, Float32Linear, linears
from sfi_agent.runtime.meter import Meter, engine
from sfi_agent.runtime.remembered import Fetched, Listed
from sfi_agent.runtime.row import Row

BYTES = 2 * 2 * 16 * 4
"""Of one position in one layer: key and value, two KV heads of 16 float32."""


def reads(tiny, runtime, monkeypatch, mode, tokens, prompt=60, **settings):
    """Of one turn: the result, and the KV positions that each layer of each step read."""
    kernel = runtime.registry.create("kernel", "torch")

    class Watching:
        def __getattr__(self, name):
            return getattr(kernel, name)

        def dense(self, queries, keys, values, spec):
            seen.append(keys.shape[1] if spec.window is None else min(spec.window, keys.shape[1]))
            return kernel.dense(queries, keys, values, spec)

        def sparse(self, plan, queries, keys, values, spec, fresh):
            seen.append(plan.positions.shape[1] + keys.shape[1] - plan.tail)
            return kernel.sparse(plan, queries, keys, values, spec, fresh)

    seen: list[int] = []
    monkeypatch.setitem(runtime._maker._kernels, "torch", Watching())
    result = tiny.run(
        runtime, tiny.prompt(prompt), mode, tokens, kernel="torch", prefill_chunk=512, **settings
    )
    return result, seen


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_dense_reads_exactly_what_dense_reads(tiny, of_family, family):
    for tokens in (1, 2, 9):
        assert tiny.run(of_family(family), tiny.prompt(40), "dense", tokens).kv_read_fraction == 1.0


def test_sfi_by_hand(tiny, of_family):
    """Prompt 40, then steps at positions 40 ... 44 of which the fourth is slow."""
    result = tiny.run(
        of_family("llama"),
        tiny.prompt(40),
        "sfi",
        6,
        budget=10,
        recent=4,
        sink=1,
        max_interval=3,
        boundaries=(),
    )
    assert (result.slow_steps, result.fast_steps) == (1, 4)
    fast = [10 + 1, 10 + 2, 10 + 3, 10 + 1]  # the budget and the tokens since its refresh
    slow = 44
    # The refresh at 44 tokens reads the keys (half a position) of 44 - 1 sink - 4 recent candidates, and
    # gathers its 10 positions.
    refresh = (44 - 1 - 4) / 2 + 10
    assert result.kv_read_fraction == pytest.approx((sum(fast) + slow + refresh) / (41 + 42 + 43 + 44 + 45))


def test_a_selector_without_evidence_reads_no_keys(tiny, of_family):
    result = tiny.run(
        of_family("llama"),
        tiny.prompt(40),
        "sfi",
        6,
        **{"budget": 10, "recent": 4, "sink": 1, "max_interval": 3, "boundaries": (), "selector": "recent"},
    )
    assert result.kv_read_fraction == pytest.approx((11 + 12 + 13 + 44 + 10 + 11) / (41 + 42 + 43 + 44 + 45))


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3"])
@pytest.mark.parametrize("mode", ["dense", "sfi", "verified"])
def test_what_kernels_read_is_what_is_counted(tiny, of_family, family, mode, monkeypatch):
    """Sliding layers too; a selector that reads no evidence, so that only gathers come on top."""
    runtime = of_family(family)
    gathered: list[int] = []
    settings = {"selector": "recent", "adaptive_draft": False, "max_interval": 4}
    refresh = memory.refresh
    monkeypatch.setattr(memory, "refresh", lambda *a: gathered.append(refresh(*a)) or gathered[-1])
    result, seen = reads(tiny, runtime, monkeypatch, mode, 12, **settings)
    decoded = seen[len(runtime.model.model.layers) :]
    windows = [
        getattr(layer.self_attn, "sliding_window", None) or 999 for layer in runtime.model.model.layers
    ]
    dense = sum(min(61 + i, window) for i in range(11) for window in windows)
    # The refresh after a prefill is the prefill's; verified mode refreshes only when it drafts.
    counted = gathered if mode == "verified" else gathered[1:]
    expected = (sum(decoded) + sum(counted) / BYTES) / dense
    assert result.kv_read_fraction == pytest.approx(expected)
    steps = len(decoded) // len(runtime.model.model.layers)
    assert steps == result.slow_steps + result.fast_steps


def test_what_a_row_in_pages_reads_is_counted_layer_by_layer():
    """Listed places and recent ones where attention is full; the window elsewhere."""
    windows, tail, length = (None, 8, None, 40), 20, 30
    places = torch.full((4, 2, 3), -1)
    places[0] = torch.tensor([[5, 6, 7], [-1, -1, 9]])
    places[2] = torch.tensor([[1, 2, -1], [-1, -1, -1]])
    listed = Listed(tail, windows, BYTES, places, Fetched((places >= 0).sum()))
    remembered = {0: (3 + 1) / 2, 2: (2 + 0) / 2}
    for tokens in (1, 3):
        seen = 0.0
        for position in range(length - tokens, length):
            for layer, window in enumerate(windows):
                stretch = range(tail if window is None else max(0, position + 1 - window), position + 1)
                seen += len(stretch) + (remembered[layer] if window is None else 0)
        assert listed.bytes_read(length, tokens) == seen * BYTES


WINDOWS = st.lists(st.none() | st.integers(1, 40), max_size=4)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(windows=WINDOWS, first=st.integers(0, 50), count=st.integers(0, 50))
def test_what_many_dense_steps_read_is_what_each_reads(windows, first, count):
    stop, storage = first + count, torch.zeros(2, 1, 16)
    each = [min(position + 1, window or 999) for position in range(first, stop) for window in windows]
    assert visible(windows, first, stop) == sum(each)
    layers = {i: LayerKV(storage, storage, LayerSpec(1.0, window=w)) for i, w in enumerate(windows)}
    assert KVCache(layers).dense_bytes(first, stop) == sum(each) * BYTES


@pytest.mark.parametrize("mode", ["dense", "sfi"])
def test_counting_bytes_looks_at_no_key_and_a_result_asks_once(tiny, shared, mode, monkeypatch):
    asked, entry, dense_bytes = [], LayerKV.entry, KVCache.dense_bytes
    with shared.stream(tiny.prompt(60), policy=tiny.policy(mode), sampling=tiny.sampling(20)) as stream:
        for _ in stream:
            pass
        monkeypatch.setattr(LayerKV, "entry", property(lambda of: asked.append("key") or entry.fget(of)))
        monkeypatch.setattr(KVCache, "dense_bytes", lambda *a: asked.append("dense") or dense_bytes(*a))
        result = stream.result
    assert result.completion_tokens == 20
    assert asked == ["dense"]


def test_counts_add_up(tiny, shared):
    sfi = tiny.run(shared, tiny.prompt(60), "sfi", 30)
    assert sfi.slow_steps + sfi.fast_steps == 29
    verified = tiny.run(shared, tiny.prompt(60), "verified", 30, adaptive_draft=False)
    assert verified.fast_steps == verified.drafted
    assert verified.accepted + verified.slow_steps == 29
    assert verified.accepted < verified.drafted
    dense = tiny.run(shared, tiny.prompt(60), "dense", 30)
    assert (dense.slow_steps, dense.fast_steps, dense.drafted, dense.accepted) == (29, 0, 0, 0)


class TestFloat32Linear:
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize(("rows", "columns"), [(5, 7), (SLAB // 1024 + 3, 1024)])
    def test_it_rounds_once(self, dtype, bias, rows, columns):
        generator = torch.Generator().manual_seed(0)
        inputs, weight = (torch.randn(n, columns, generator=generator).to(dtype) for n in (6, rows))
        given = torch.randn(rows, generator=generator).to(dtype) if bias else None
        exact = linear(inputs.double(), weight.double(), given.double() if bias else None)
        with Float32Linear():
            out = linear(inputs, weight, given) if bias else linear(inputs, weight)
        assert out.dtype is dtype
        spacing = torch.finfo(dtype).eps
        torch.testing.assert_close(out.double(), exact, rtol=spacing / 2 * 1.01, atol=1e-4)

    def test_the_heads_logits_are_left_unrounded(self):
        weight, inputs = torch.randn(9, 8).bfloat16(), torch.randn(4, 8).bfloat16()
        with Float32Linear(head=weight):
            assert linear(inputs, weight).dtype is torch.float32
            assert linear(inputs, weight.clone()).dtype is torch.bfloat16

    def test_wide_weights_are_left_alone(self):
        weight, inputs = torch.randn(9, 8), torch.randn(4, 8)
        with Float32Linear():
            assert torch.equal(linear(inputs, weight), inputs @ weight.T)

    def test_it_is_active_in_its_context_alone(self, tiny, monkeypatch):
        calls = []
        monkeypatch.setattr(Float32Linear, "_widened", lambda self, *args: calls.append(1) or linear(*args))
        weight, inputs = torch.randn(9, 8).bfloat16(), torch.randn(4, 8).bfloat16()
        linear(inputs, weight)
        with Float32Linear():
            linear(inputs, weight)
        linear(inputs, weight)
        assert calls == [1]

    def test_when_it_is_used(self, tiny, monkeypatch):
        monkeypatch.setattr("sfi_agent.runtime.linear.cpu_has_bfloat16", lambda: False)
        model = tiny.model()
        assert not isinstance(linears(model, 512), Float32Linear)
        model.bfloat16()
        assert isinstance(linears(model, 512), Float32Linear)
        assert not isinstance(linears(model, 1), Float32Linear)
        monkeypatch.setattr("sfi_agent.runtime.linear.cpu_has_bfloat16", lambda: True)
        assert not isinstance(linears(model, 512), Float32Linear)


def test_decode_speed_counts_from_the_first_token_not_from_the_step_that_gave_it(monkeypatch):
    now = 100.0
    monkeypatch.setattr("sfi_agent.runtime.meter.time.perf_counter", lambda: now)
    meter = Meter(Row(), prompt_tokens=1)
    with engine([meter]):
        now += 5  # the last prefill chunk and the refresh behind it
        meter.token()
        now += 1  # what follows the token belongs to the next
    with engine([meter]):
        now += 2
        meter.token()
    assert meter.first_token_seconds == 5
    assert meter.engine_seconds == 8
    assert meter.tokens_per_second(2) == pytest.approx(1 / 3)
