"""Tokens drawn by Triton against plain PyTorch."""

from __future__ import annotations

import pytest
import torch

from sfi_agent.contracts import Draw, Drawing
from sfi_kernels.rows import TorchRows, TritonRows

pytest.importorskip("triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DRAWS = [
    None,
    Draw(1.0, 3),
    Draw(0.6, 2**63 + 11),
    Draw(1e9, 2**64 - 1, top_k=3),
    Draw(1.3, 5, top_p=0.7),
    Draw(1e-9, 6),
    Draw(0.8, 7, top_k=20, top_p=0.9),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("size", [1, 50, 9000])
def test_what_is_drawn(dtype, size, monkeypatch):
    monkeypatch.setattr("sfi_agent.contracts.drawing.DRAWN", 3)
    torch.manual_seed(size)
    kernel, found, wanted = TritonRows(), [], []
    for turn in range(5):
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
