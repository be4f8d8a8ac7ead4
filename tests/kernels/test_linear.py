"""Linear layers of few tokens, against plain PyTorch."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch

from sfi_agent.testing.tolerances import TOLERANCES
from sfi_kernels.linear import reference
from sfi_kernels.linear.triton import MOST_TOKENS, Layout, _counters, linear

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = tuple(TOLERANCES) if DEVICE == "cuda" else (torch.float32, torch.float16)


def drawn(tokens, rows, columns, dtype=torch.float32):
    made = torch.Generator().manual_seed(tokens + rows + columns)
    inputs = torch.randn(tokens, columns, generator=made) / columns**0.5
    weight, bias = torch.randn(rows, columns, generator=made), torch.randn(rows, generator=made)
    return [part.to(DEVICE, dtype) for part in (inputs, weight, bias)]


def check(found, inputs, weight, bias):
    wanted = reference.linear(inputs, weight, bias)
    torch.testing.assert_close(found, wanted, **asdict(TOLERANCES[inputs.dtype]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("tokens", "rows", "columns"), [(1, 64, 128), (3, 130, 257), (16, 192, 512), (33, 65, 384)]
)
def test_it_is_a_linear_layer(tokens, rows, columns, dtype):
    inputs, weight, bias = drawn(tokens, rows, columns, dtype)
    check(linear(inputs, weight), inputs, weight, None)
    check(linear(inputs, weight, bias), inputs, weight, bias)


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_parts_of_the_columns_are_added_by_the_last(parts):
    inputs, weight, bias = drawn(5, 100, 900)
    layout = Layout(rows=32, depth=64, parts=parts)
    for _ in range(2):  # the counters are as they were
        check(linear(inputs, weight, bias, layout), inputs, weight, bias)
        assert not _counters(inputs.device).any()


def test_more_parts_than_blocks_leave_some_without_work():
    inputs, weight, bias = drawn(2, 64, 100)
    check(linear(inputs, weight, bias, Layout(depth=64, parts=5)), inputs, weight, bias)


def test_inputs_may_be_a_part_of_wider_rows():
    inputs, weight, bias = drawn(MOST_TOKENS, 64, 256)
    check(linear(inputs[:, 64:192], weight[:, 64:192], bias), inputs[:, 64:192], weight[:, 64:192], bias)


def test_columns_are_divided_where_rows_are_few():
    device = torch.device(DEVICE)
    assert Layout.of(2**17, 2560, device).parts == 1
    assert Layout.of(64, 4096, device).parts > 1
    assert Layout.of(64, 256, device).parts == 1
