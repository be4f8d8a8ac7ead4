"""Linear layers of few tokens: the kernel gives what its reference gives, however a product is divided."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial

import pytest
import torch

from sfi_agent.contracts import Beside, Rotary
from sfi_agent.testing.tolerances import TOLERANCES
from sfi_kernels.linear import reference

pytest.importorskip("triton")
from sfi_kernels.joining import counters_for
from sfi_kernels.linear import triton as triton_linear
from sfi_kernels.linear.triton import MOST_TOKENS, Layout, linear
from sfi_kernels.rows import TritonRows

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Triton's interpreter, which takes the place of a GPU, has no bfloat16 arithmetic.
DTYPES = tuple(TOLERANCES) if DEVICE.type == "cuda" else (torch.float32, torch.float16)
SMALL = Layout(rows=16, depth=64)


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request):
    return request.param


def drawn(tokens, columns, rows, dtype):
    """Inputs, weights whose products are of the order of 1, and a bias; what lies beside them is NaN."""
    torch.manual_seed(rows)
    wide = torch.full((tokens + 1, columns + 3), torch.nan, device=DEVICE, dtype=dtype)
    tall = torch.full((rows + 1, columns + 5), torch.nan, device=DEVICE, dtype=dtype)
    wide[:tokens, :columns] = torch.randn(tokens, columns)
    tall[:rows, :columns] = torch.randn(rows, columns) * columns**-0.5
    return wide[:tokens, :columns], tall[:rows, :columns], torch.randn(rows, device=DEVICE).to(dtype)


def check(found, inputs, weight, bias, **around):
    wanted = reference.linear(inputs, weight, bias, **around)
    torch.testing.assert_close(found, wanted, **asdict(TOLERANCES[found.dtype]))


@pytest.mark.parametrize(
    ("tokens", "columns", "rows"),
    [(1, 128, 32), (3, 200, 33), (16, 70, 16), (17, 65, 1), (MOST_TOKENS, 192, 40)],
)
@pytest.mark.parametrize("parts", [1, 2])
def test_any_shape(tokens, columns, rows, parts, dtype):
    inputs, weight, bias = drawn(tokens, columns, rows, dtype)
    check(linear(inputs, weight, None, SMALL._replace(parts=parts)), inputs, weight, None)
    check(linear(inputs, weight, bias, SMALL._replace(parts=parts)), inputs, weight, bias)


def test_the_layout_it_chooses(dtype):
    for rows, columns in ((70, 2048), (600, 96)):
        inputs, weight, bias = drawn(2, columns, rows, dtype)
        check(linear(inputs, weight, bias), inputs, weight, bias)


def test_columns_of_the_inputs_may_lie_apart(dtype):
    inputs, weight, _ = drawn(2, 64, 16, dtype)
    check(linear(inputs.t().contiguous().t(), weight, None, SMALL), inputs, weight, None)


def around(inputs, rows, *, normed, gated, added):
    """What precedes and follows the product; what lies beside the norm's weight is NaN."""
    columns, dtype = inputs.shape[1], inputs.dtype
    wide = torch.full((columns + 1,), torch.nan, device=DEVICE, dtype=dtype)
    wide[:columns] = 1 + torch.randn(columns) / 4
    width = rows // 2 if gated else rows
    return {
        "norm": wide[:columns] if normed else None,
        "eps": 0.5,
        "gated": gated,
        "residual": torch.randn(len(inputs), width, device=DEVICE).to(dtype) if added else None,
    }


@pytest.mark.parametrize(
    ("tokens", "columns", "rows", "biased"),
    [
        (1, 128, 32, False),
        (3, 200, 34, True),
        (16, 70, 16, False),
        (17, 65, 2, True),
        (MOST_TOKENS, 192, 40, False),
    ],
)
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("added", [False, True])
def test_what_precedes_and_follows_a_product(
    tokens, columns, rows, biased, parts, normed, gated, added, dtype
):
    inputs, weight, bias = drawn(tokens, columns, rows, dtype)
    bias = bias if biased else None
    inputs *= 3  # so that a norm that is left out shows
    also = around(inputs, rows, normed=normed, gated=gated, added=added)
    layout = SMALL._replace(parts=parts)
    check(linear(inputs, weight, bias, layout, **also), inputs, weight, bias, **also)


def rotary(tokens, dim, queries, keys, dtype, *, normed):
    """Angles and norms at random."""
    drawn = partial(torch.randn, device=DEVICE)
    angles = 3 * drawn(tokens, dim)
    norms = [(1 + drawn(dim) / 4).to(dtype) for _ in range(2)] if normed else (None, None)
    return Rotary(angles.cos().to(dtype), angles.sin().to(dtype), queries, keys, *norms, 0.25)


@pytest.mark.parametrize(
    ("tokens", "columns", "dim", "heads", "parts"),
    [
        (1, 128, 32, (2, 1, 1), 2),
        (3, 130, 64, (2, 1, 1), 1),
        (3, 130, 64, (2, 1, 1), 2),
        (17, 70, 32, (1, 1, 0), 2),
        (MOST_TOKENS, 64, 32, (1, 0, 2), 1),
    ],
)
@pytest.mark.parametrize("normed", [False, True], ids=["", "normed"])
@pytest.mark.parametrize("heads_normed", [False, True], ids=["", "heads normed"])
def test_heads_turn_with_their_product(tokens, columns, dim, heads, parts, normed, heads_normed, dtype):
    inputs, weight, _ = drawn(tokens, columns, sum(heads) * dim, dtype)
    also = around(3 * inputs, sum(heads) * dim, normed=normed, gated=False, added=False)
    also["rotary"] = rotary(tokens, dim, *heads[:2], dtype, normed=heads_normed)
    layout, counters = SMALL._replace(rows=dim // 2, parts=parts), counters_for(DEVICE)
    once = linear(inputs, weight, None, layout, **also, counters=counters)
    check(once, inputs, weight, None, **also)
    if parts > 1:
        assert torch.equal(once, linear(inputs, weight, None, layout, **also, counters=counters))
    assert not counters.any()


def test_a_token_of_zeros_stays_what_it_was(dtype):
    inputs, weight, _ = drawn(2, 128, 32, dtype)
    inputs[0] = 0
    also = around(inputs, 32, normed=True, gated=False, added=True) | {"eps": 1e-6}
    found = linear(inputs, weight, None, SMALL, **also)
    assert torch.equal(found[0], also["residual"][0])


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_parts_leave_their_counters_as_they_found_them(parts):
    inputs, weight, bias = drawn(2, 64 * 5, 40, torch.float32)
    layout, counters = SMALL._replace(parts=parts), counters_for(DEVICE)
    also = around(inputs, 40, normed=True, gated=True, added=True)
    once, again = (linear(inputs, weight, bias, layout, **also, counters=counters) for _ in range(2))
    assert torch.equal(once, again)
    assert not counters.any()


def test_steps_of_few_tokens_are_fused():
    assert TritonRows().fuses(MOST_TOKENS, torch.bfloat16)
    assert not TritonRows().fuses(MOST_TOKENS + 1, torch.bfloat16)
    assert not TritonRows().fuses(1, torch.float32)


@pytest.mark.skipif(DEVICE.type != "cuda", reason="rows are computed by the kernel on a GPU alone")
def test_rows_of_a_step_are_computed_by_the_kernel(dtype):
    inputs, weight, bias = drawn(8, 2048, 256, dtype)
    for gated in (False, True):
        also = around(inputs, 256, normed=True, gated=gated, added=not gated)
        check(TritonRows().fused(inputs, weight, bias, Beside(**also)), inputs, weight, bias, **also)


def test_programs_run_all_at_once(monkeypatch):
    monkeypatch.setattr(triton_linear, "multiprocessors", lambda device: 132)
    shapes = [(2560, 4096), (6144, 2560), (2560, 9728), (19456, 2560), (151936, 2560), (64, 256)]
    assert [Layout.of(*shape, 8, DEVICE).parts for shape in shapes] == [6, 2, 6, 1, 1, 1]
    assert [Layout.of(*shape, 8, DEVICE, normed=True).parts for shape in shapes] == [8, 4, 9, 1, 1, 1]


def test_tiles_that_are_too_many_to_run_at_once_are_fewer_and_higher(monkeypatch):
    monkeypatch.setattr(triton_linear, "multiprocessors", lambda device: 132)
    usual, high = (64, 1), (128, 1)
    found = [
        Layout.of(rows, 4096, 16, DEVICE, normed=True) for rows in (396 * 64, 397 * 64, 528 * 64, 529 * 64)
    ]
    assert [(layout.rows, layout.parts) for layout in found] == [usual, high, high, usual]
    assert Layout.of(397 * 64, 4096, 17, DEVICE).rows == 64


@pytest.mark.skipif(DEVICE.type != "cuda", reason="kernels overlap on a GPU alone")
def test_products_that_overlap_wait_for_one_another():
    weights = [torch.randn(1024, 1024, device=DEVICE).half() / 32 for _ in range(48)]
    inputs = torch.randn(8, 1024, device=DEVICE).half()

    def chain(after):
        out = inputs
        for weight in weights:
            out = linear(out, weight)
            after()
        return out

    wanted = chain(torch.cuda.synchronize)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = chain(lambda: None)
    for _ in range(50):
        found.zero_()
        graph.replay()
        assert torch.equal(found, wanted)
