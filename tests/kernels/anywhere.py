"""The Triton kernel as a plugin, interpreted where there is no GPU."""

from __future__ import annotations

import torch

from sfi_agent.hookspecs import hookimpl
from sfi_agent.testing import TOLERANCES
from sfi_kernels.bundles import TritonKernel

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Triton's interpreter, which takes the place of a GPU, has no bfloat16 arithmetic.
DTYPES = tuple(TOLERANCES) if DEVICE == "cuda" else (torch.float32, torch.float16)


class AnywhereKernel(TritonKernel):
    def unavailable(self, device):
        return None


class Plugin:
    name = "anywhere"

    @hookimpl
    def sfi_register_kernels(self, register):
        register("anywhere", AnywhereKernel)
