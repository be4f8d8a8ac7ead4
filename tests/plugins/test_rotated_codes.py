"""Codes of keys that a kernel chooses by."""

from __future__ import annotations

import pytest
import torch

from sfi_plugins.indexes.rotated import RotatedCoding

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
