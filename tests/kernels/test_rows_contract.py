"""The conformance tests of every rows kernel, of both that there are."""

from __future__ import annotations

import pytest

from sfi_agent.registry import Registry
from sfi_agent.testing import RowsKernelTests
from tests.kernels.anywhere import DEVICE, DTYPES, Plugin


class TestTorch(RowsKernelTests):
    name = "torch"
    device = DEVICE


class TestTriton(RowsKernelTests):
    name = "anywhere"
    device = DEVICE
    dtypes = DTYPES

    @pytest.fixture(autouse=True)
    def _triton(self):
        pytest.importorskip("triton")

    def registry(self) -> Registry:
        return Registry(extra=[Plugin()])
