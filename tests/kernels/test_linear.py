"""Linear layers of few tokens: the kernel gives what its reference gives, however a product is divided."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch

from sfi_agent.testing.tolerances import TOLERANCES
from sfi_kernels.linear import reference

pytest.importorskip("triton")
from sfi_kernels.linear import triton as triton_linear
from sfi_kernels.linear.triton import MOST_TOKENS, Layout, linear
from sfi_kernels.splits import counters_for

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


def check(found, inputs, weight, bias):
    wanted = reference.linear(inputs, weight, bias)
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


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_parts_leave_their_counters_as_they_found_them(parts):
    inputs, weight, bias = drawn(2, 64 * 5, 40, torch.float32)
    layout, counters = SMALL._replace(parts=parts), counters_for(DEVICE)
    once, again = (linear(inputs, weight, bias, layout, counters=counters) for _ in range(2))
    assert torch.equal(once, again)
    assert not counters.any()


def test_programs_run_all_at_once(monkeypatch):
    monkeypatch.setattr(triton_linear, "multiprocessors", lambda device: 132)
    shapes = [(2560, 4096), (6144, 2560), (2560, 9728), (19456, 2560), (151936, 2560), (64, 256)]
    assert [Layout.of(*shape, DEVICE).parts for shape in shapes] == [6, 2, 6, 1, 1, 1]


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
