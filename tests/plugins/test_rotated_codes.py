"""Codes of keys that a kernel chooses by."""

from __future__ import annotations

import pytest
import torch

from sfi_plugins.indexes.rotated import LOOKED_UP, RotatedCoding, RotatedIndex

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_key_has_one_code_however_many_are_coded_with_it(bits, dtype):
    """A session that comes back from disk codes at once what it had coded step by step."""
    drawn = torch.randn(600, 3, 2, 64, generator=torch.Generator().manual_seed(bits))
    keys, coding = drawn.to(DEVICE, dtype), RotatedCoding(bits)
    mean = keys[:64].float().mean(0)
    codes, scales = coding.code(keys, mean)
    assert scales.dtype == torch.float32
    for step in (1, 24, 130):
        parts = [coding.code(part, mean) for part in keys.split(step)]
        assert torch.equal(torch.cat([part[0] for part in parts]), codes)
        assert torch.equal(torch.cat([part[1] for part in parts]), scales)


@pytest.mark.parametrize("dim", [64, 33])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_queries_are_told_what_many_are(bits, dim):
    """A CPU looks products up for few, and decodes keys for many."""
    torch.manual_seed(bits)
    index = RotatedIndex(bits)
    index.append(torch.randn(2, 90, dim, device=DEVICE))
    queries = torch.randn(LOOKED_UP + 1, 2, 1, dim, device=DEVICE)
    each = torch.cat([index.products(query[None], 5, 80) for query in queries])
    torch.testing.assert_close(each, index.products(queries, 5, 80), rtol=1e-5, atol=1e-4)
