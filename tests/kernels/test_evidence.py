"""Attention mass over pages against plain PyTorch."""

from __future__ import annotations

import pytest
import torch

from sfi_agent.contracts import PAGE, LayerSpec
from sfi_kernels.rows import TorchRows, TritonRows

pytest.importorskip("triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LAYERS, PAGES = 3, 12


@pytest.mark.parametrize("extra", [{}, {"softcap": 1.5}], ids=str)
@pytest.mark.parametrize(("start", "stop"), [(4, 600), (0, 64), (63, 65), (130, 131)])
@pytest.mark.parametrize(
    ("dim", "heads", "kv_heads", "captured", "power"),
    [(64, 6, 2, 4, 0.5), (128, 16, 1, 16, 1.0), (96, 2, 2, 1, 2.0)],
)
def test_mass(dim, heads, kv_heads, captured, power, start, stop, extra):
    torch.manual_seed(stop)
    keys = torch.randn(LAYERS, PAGES, kv_heads, PAGE, dim, device=DEVICE)
    table = torch.randperm(PAGES, dtype=torch.int32)[: -(-stop // PAGE)].to(DEVICE)
    queries = 3 * torch.randn(2, captured, heads, dim, device=DEVICE)
    asked = queries, keys, (2, 0), table, start, stop, LayerSpec(dim**-0.5, **extra), power
    for norms in (True, False):
        found, lengths = TritonRows().mass(*asked, norms=norms)
        wanted, wanted_lengths = TorchRows().mass(*asked, norms=norms)
        torch.testing.assert_close(found, wanted, rtol=2e-4, atol=1e-6)
        assert (lengths is None) == (not norms)
        if norms:
            torch.testing.assert_close(lengths, wanted_lengths, rtol=2e-4, atol=1e-6)


def test_queries_may_be_some_of_a_ring():
    keys, table = torch.randn(2, 2, 1, PAGE, 64, device=DEVICE), torch.tensor([1, 0], dtype=torch.int32)
    ring = torch.randn(2, 9, 4, 64, device=DEVICE)
    asked = keys, (0, 1), table.to(DEVICE), 0, 100, LayerSpec(0.125), 1.0
    found, _ = TritonRows().mass(ring[:, 3:7], *asked, norms=False)
    wanted, _ = TritonRows().mass(ring[:, 3:7].contiguous(), *asked, norms=False)
    assert torch.equal(found, wanted)


def test_queries_that_see_one_position_only_give_it_all():
    keys = torch.zeros(1, 1, 1, PAGE, 64, device=DEVICE)
    keys[0, 0, 0, 20] = 1000.0
    queries, table = torch.ones(1, 2, 2, 64, device=DEVICE), torch.zeros(1, dtype=torch.int32, device=DEVICE)
    mass, norms = TritonRows().mass(queries, keys, (0,), table, 0, PAGE, LayerSpec(0.125), 0.5, norms=True)
    assert mass[0, 0, 20] == 1
    assert mass.sum() == 1
    assert norms[0, 0, 20] == 8000
