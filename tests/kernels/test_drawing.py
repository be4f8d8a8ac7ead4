"""Tokens drawn by Triton against plain PyTorch."""

from __future__ import annotations

import pytest
import torch

from sfi_agent.contracts import Draw, Drawing
from sfi_agent.testing.rows import DRAWS
from sfi_kernels.least.triton import least
from sfi_kernels.rows import TorchRows, TritonRows

pytest.importorskip("triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def few_programs(monkeypatch):
    """Interpreted, each takes milliseconds, and each block."""
    if DEVICE == "cpu":
        monkeypatch.setattr("sfi_kernels.least.triton.PARTS", 3)
        monkeypatch.setattr("sfi_kernels.least.triton.BLOCK", 1024)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_what_is_drawn_of_many_blocks(dtype, few_programs, monkeypatch):
    size = 9000
    monkeypatch.setattr("sfi_agent.contracts.drawing.DRAWN", 3)
    torch.manual_seed(size)
    kernel, found, wanted = TritonRows(), [], []
    for turn in range(5) if DEVICE == "cuda" else (0,):  # the interpreter takes seconds for each
        logits = (3 * torch.randn(len(DRAWS), size, device=DEVICE)).to(dtype)
        positions = torch.arange(len(DRAWS), device=DEVICE) + 2**30 * turn
        drawing = Drawing.of(DRAWS, positions, size)
        for rows, tokens in ((TorchRows(), wanted), (kernel, found)):
            for how in (drawing, None):
                out = positions.new_full((len(DRAWS),), -1)
                rows.draw(logits, how, out)
                tokens.append(out.tolist())
    assert found == wanted
    assert not kernel._held.any()


@pytest.mark.parametrize("size", [5, 5000])
def test_what_is_no_number_is_the_most_likely(size):
    """As for torch: its row fails, and no other."""
    logits, kernel = torch.randn(3, size, device=DEVICE), TritonRows()
    logits[0], logits[1, 3] = torch.nan, torch.nan
    for how in (None, Drawing.of(3 * [DRAWS[1]], torch.arange(3, device=DEVICE), size)):
        out = torch.zeros(3, dtype=torch.int64, device=DEVICE)
        kernel.draw(logits, how, out)
        assert out[0] < size
        assert out[1] == 3
        assert logits[2].isfinite().all()


def test_of_equals_the_first():
    logits, out = torch.zeros(2, 5000, device=DEVICE), torch.zeros(2, dtype=torch.int64, device=DEVICE)
    logits[1, [4097, 4100, 3]] = 1
    TritonRows().draw(logits.T.contiguous().T, None, out)
    assert out.tolist() == [0, 3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [3, 40, 5000])
def test_what_may_come(dtype, size, few_programs):
    """Of few numbers, so that many are equal; the share lies between two sums of them, not at one."""
    torch.manual_seed(size)
    cuts = [(0, 1.0), (0, 0.37), (0, 1e-9), (1, 1.0), (17, 1.0), (17, 0.61), (4000, 0.93), (10**9, 0.5)]
    draws = [None, *(Draw(0.7, 1, top_k, top_p) for top_k, top_p in cuts)]
    logits = (2 * torch.randn(len(draws), size, device=DEVICE)).round(decimals=1).to(dtype)
    drawing = Drawing.of(draws, torch.zeros(len(draws), dtype=torch.int64, device=DEVICE), size)
    assert drawing.likeliest
    counters = torch.zeros(len(draws), dtype=torch.int32, device=DEVICE)
    found, wanted = (each[:, None] for each in (least(logits, drawing, counters), drawing.least(logits)))
    assert torch.equal(logits >= found, logits >= wanted)
    assert not counters.any()


def test_what_is_as_likely_as_can_be_alone_may_come():
    """Logits far apart, and some that are none."""
    logits = torch.tensor([[-torch.inf, 1e38, -1e38, 0.0, -0.0, 5.0]], device=DEVICE)
    counters = torch.zeros(1, dtype=torch.int32, device=DEVICE)
    for top_k, top_p, wanted in [
        (0, 0.5, 1),
        (1, 1.0, 1),
        (2, 1.0, 2),
        (3, 1.0, 4),
        (5, 1.0, 5),
        (6, 1.0, 6),
    ]:
        drawing = Drawing.of(
            [Draw(1.0, 1, top_k, top_p)], torch.zeros(1, dtype=torch.int64, device=DEVICE), 6
        )
        if drawing.likeliest:
            assert int((logits >= least(logits, drawing, counters)[:, None]).sum()) == wanted
