"""What tests of kernels share: the kernel by its name, the dtypes, and how near is near enough."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from sfi_agent.contracts import AttentionKernel
from sfi_agent.registry import Registry, default_registry
from sfi_agent.testing.tolerances import TOLERANCES


class NamedKernel:
    """A registered kernel to be tested.

    Attributes:
        name: what the kernel is registered as.
        settings: given when it is made.
        device: where tensors lie; tests are skipped where the kernel says it is unavailable.
        dtypes: the dtypes it supports.
    """

    name: ClassVar[str]
    settings: ClassVar[dict[str, Any]] = {}
    device: ClassVar[str] = "cpu"
    dtypes: ClassVar[tuple[torch.dtype, ...]] = tuple(TOLERANCES)

    def registry(self) -> Registry:
        """Where the name is looked up; override it for a plugin that is not installed."""
        return default_registry()

    def make(self) -> AttentionKernel:
        """A new kernel, or a skip that says why it cannot run here."""
        made: AttentionKernel = self.registry().create("kernel", self.name, self.settings)
        if reason := made.unavailable(torch.device(self.device)):
            pytest.skip(reason)
        return made

    @pytest.fixture(params=list(TOLERANCES), ids=str)
    def dtype(self, request: pytest.FixtureRequest) -> torch.dtype:
        """Each dtype of the table that the kernel supports."""
        if request.param not in self.dtypes:
            pytest.skip(f"{self.name} does not support {request.param}")
        made: torch.dtype = request.param
        return made

    def close(self, out: Tensor, expected: Tensor) -> None:
        """Assert that ``out`` is free of NaN and within its dtype's tolerance of ``expected``."""
        assert not out.isnan().any(), "NaN: something outside the memory was read"
        tolerance = TOLERANCES[out.dtype]
        torch.testing.assert_close(
            out.cpu().double(), expected, rtol=tolerance.rtol, atol=tolerance.atol, check_stride=False
        )
