"""Choosing a memory of a length that has not come before compiles nothing: rows would wait for that."""

from __future__ import annotations

import pytest
import torch

from sfi_agent.contracts import LayerSpec
from sfi_agent.policy import Policy
from sfi_agent.registry import default_registry
from sfi_agent.runtime.memory import refresh
from sfi_agent.runtime.pages import PAGE, PagedCache
from sfi_agent.runtime.pool import PagePool
from sfi_agent.runtime.row import Row

LAYERS, HEADS, KV_HEADS, DIM = 3, 8, 2, 64
LENGTHS = (3000, 2240, 2560, 2561, 3328, 4000)
"""Between two powers of two, for which there are kernels of their own; 16 divides some, and the stretches
and pages of some."""


def row_of(pool: PagePool, length: int) -> Row:
    """With random queries of its last tokens."""
    row = Row(kv=PagedCache(pool))
    row.begin(length)
    start = max(0, length - row.queries.size)
    for layer in range(LAYERS):
        queries = torch.randn(length - start, HEADS, DIM, device="cuda", dtype=torch.bfloat16)
        row.queries.write(layer, start, queries)
    row.commit(length, fast=False)
    return row


@pytest.mark.skipif(not torch.cuda.is_available(), reason="kernels are compiled for a GPU alone")
@pytest.mark.parametrize("selector", ["snapkv", "paper", "index"])
def test_a_new_length_compiles_nothing(selector, monkeypatch):
    from triton import knobs

    like = torch.zeros(KV_HEADS, DIM, device="cuda", dtype=torch.bfloat16)
    pool = PagePool(sum(LENGTHS) // PAGE + 2 * len(LENGTHS), LAYERS * [LayerSpec(DIM**-0.5)], (like, like))
    pool.keys.normal_()
    registry, policy = default_registry(), Policy(budget=300, recent=64, dense_below=0)
    kernel = registry.kernel("auto", torch.device("cuda"))
    compiled: list[str] = []
    for length in LENGTHS:
        row = row_of(pool, length)
        refresh(row, policy, registry.create("selector", selector), kernel)
        torch.cuda.synchronize()
        assert row.memory is not None
        assert compiled == [], f"at {length} tokens"
        monkeypatch.setattr(
            knobs.runtime, "jit_cache_hook", lambda *, fn, **_: compiled.append(fn.name) and False
        )
