"""Positions beyond a row's pages, and the greatest score of a window, against plain PyTorch."""

from __future__ import annotations

import pytest
import torch

from sfi_agent.contracts import PAGE, sliding_max
from sfi_kernels.rows import TritonRows

pytest.importorskip("triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def test_what_is_in_no_page_is_passed_over():
    table = torch.tensor([5, 2], dtype=torch.int32, device=DEVICE)
    positions = torch.tensor([[[-1, 3, 2 * PAGE - 1, 2 * PAGE, 10**9]]], device=DEVICE)
    out = torch.empty(1, 1, 5, dtype=torch.int32, device=DEVICE)
    kept = torch.zeros((), dtype=torch.int64, device=DEVICE)
    TritonRows().place(positions, table, out, kept)
    assert out.flatten().tolist() == [-1, 5 * PAGE + 3, 3 * PAGE - 1, -1, -1]
    assert kept == 2


@pytest.mark.parametrize("window", [1, 2, 7, 32])
@pytest.mark.parametrize("places", [1, 5, 1024, 2500])
def test_the_greatest_of_a_window(places, window):
    from sfi_kernels.sliding_max.triton import sliding_max as by_kernel

    scores = torch.randn(2, 3, places, generator=torch.Generator().manual_seed(places)).to(DEVICE)
    scores[..., ::3] = -torch.inf
    found = by_kernel(scores, window)
    assert torch.equal(found, sliding_max(scores.cpu(), window).to(DEVICE))
    for place in {0, places // 2, places - 1}:
        around = scores[..., max(0, place - window // 2) : place + (window - 1) // 2 + 1]
        assert torch.equal(found[..., place], around.amax(-1))
