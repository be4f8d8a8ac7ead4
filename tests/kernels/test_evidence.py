"""Attention mass over pages, at its extreme."""

from __future__ import annotations

import pytest
import torch

from sfi_agent.contracts import PAGE, LayerSpec
from sfi_kernels.rows import TritonRows

pytest.importorskip("triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def test_queries_that_see_one_position_only_give_it_all():
    keys = torch.zeros(1, 1, 1, PAGE, 64, device=DEVICE)
    keys[0, 0, 0, 20] = 1000.0
    queries, table = torch.ones(1, 2, 2, 64, device=DEVICE), torch.zeros(1, dtype=torch.int32, device=DEVICE)
    mass, norms = TritonRows().mass(queries, keys, (0,), table, 0, PAGE, LayerSpec(0.125), 0.5, norms=True)
    assert mass[0, 0, 20] == 1
    assert mass.sum() == 1
    assert norms[0, 0, 20] == 8000
