"""Codes written where keys lie, at odd head dimensions, of a mean, and of few keys at a time."""

from __future__ import annotations

import pytest
import torch

from sfi_agent.contracts import PAGE
from sfi_kernels.coding import reference
from sfi_kernels.rows import TritonRows
from sfi_plugins.indexes.rotated import RotatedCoding

pytest.importorskip("triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LAYERS, PAGES, KV_HEADS = 2, 5, 3


class Pool:
    """Random keys, and room for their codes."""

    def __init__(self, bits, dim, dtype=torch.float32):
        torch.manual_seed(bits)
        self.coding = RotatedCoding(bits)
        lead = LAYERS, PAGES, KV_HEADS, PAGE
        self.keys = (torch.randn(*lead, dim, device=DEVICE) * torch.rand(dim, device=DEVICE)).to(dtype)
        self.mean = torch.randn(LAYERS, KV_HEADS, dim, device=DEVICE)
        self.order = torch.randperm(PAGES * PAGE, device=DEVICE)[:77]

    def coded(self, kernel, places):
        codes = torch.full(
            (*self.keys.shape[:4], self.keys.shape[4] * self.coding.bits // 8), 7, device=DEVICE
        )
        codes, scales = codes.byte(), torch.zeros(*self.keys.shape[:4], 1, device=DEVICE).half()
        for part in places:
            kernel.code(self.coding, self.keys, codes, scales, part, self.mean)
        return codes, scales

    def at(self, store):
        """``[n, layers, H_kv, ...]`` of the places."""
        return store[:, self.order // PAGE, :, self.order % PAGE]


@pytest.mark.parametrize(("bits", "dim"), [(1, 32), (2, 96), (2, 48), (2, 256)])
def test_codes(bits, dim):
    pool = Pool(bits, dim)
    codes, scales = pool.coded(TritonRows(), [pool.order])
    rotation = pool.coding.rotation(pool.keys)
    symbols, factors, margins = reference.coded(pool.at(pool.keys), pool.mean, rotation, pool.coding.levels)
    shifts = torch.arange(0, 8, bits, device=DEVICE)
    found = (pool.at(codes)[..., None].long() >> shifts & 2**bits - 1).flatten(-2)
    assert torch.equal(found[margins > 1e-5], symbols[margins > 1e-5])
    assert (margins > 1e-5).float().mean() > 0.999
    torch.testing.assert_close(pool.at(scales)[..., 0].double(), factors, rtol=1e-3, atol=0)


def test_a_key_that_is_the_mean_has_no_scale():
    pool = Pool(2, 64)
    place = pool.order[:1]
    pool.keys[:, place // PAGE, :, place % PAGE] = pool.mean[None]
    _, scales = pool.coded(TritonRows(), [pool.order])
    assert (pool.at(scales)[0] == 0).all()
    assert scales.isfinite().all()


def test_a_key_has_one_code_however_many_are_coded_with_it():
    pool = Pool(2, 64)
    whole, pieces = (pool.coded(TritonRows(), places) for places in ([pool.order], pool.order.split(5)))
    assert all(torch.equal(one, other) for one, other in zip(whole, pieces, strict=True))
