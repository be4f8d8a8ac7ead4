"""The Triton kernel: the conformance tests of every kernel, and where it runs."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch

from sfi_agent.contracts import LayerSpec
from sfi_agent.registry import Registry
from sfi_agent.testing import TOLERANCES, KernelTests
from sfi_kernels.bundles import TritonKernel
from sfi_kernels.dense_attention import reference as dense_reference
from tests.kernels.anywhere import DEVICE, DTYPES, Plugin

pytest.importorskip("triton")


class TestTriton(KernelTests):
    name = "anywhere"
    device = DEVICE
    dtypes = DTYPES

    def registry(self) -> Registry:
        return Registry(extra=[Plugin()])


def test_it_says_where_it_runs(monkeypatch):
    assert TritonKernel().unavailable(torch.device("cpu")) == "runs on CUDA devices, not on cpu"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 6))
    assert TritonKernel().unavailable(torch.device("cuda")) is None
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    reason = "needs a GPU of compute capability 8.0 (Ampere) or newer; this one has 7.5"
    assert TritonKernel().unavailable(torch.device("cuda")) == reason


def test_heads_may_lie_further_apart_than_32_bits_count():
    """As those of a plain tensor of a million positions do; the memory between them is never touched."""
    far, length, dim = 2**30, 40, 32
    store = torch.empty(2**31 + 2 * far + length * dim, dtype=torch.float16, device=DEVICE)
    keys = store.as_strided((3, length, dim), (far, dim, 1), 2**31)
    torch.manual_seed(0)
    keys.copy_(torch.randn(keys.shape))
    queries, spec = torch.randn(1, 6, dim, device=DEVICE).half(), LayerSpec(dim**-0.5)
    wanted = dense_reference.dense_attention(queries, keys, keys, spec)
    found = TritonKernel().dense(queries, keys, keys, spec)
    torch.testing.assert_close(found, wanted, **asdict(TOLERANCES[found.dtype]))
