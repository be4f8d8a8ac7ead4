"""Attention kernels: a folder for each operation, ``reference.py`` being the truth in it."""

from sfi_agent.contracts import AttentionKernel
from sfi_agent.hookspecs import Register, hookimpl


@hookimpl
def sfi_register_kernels(register: Register[AttentionKernel]) -> None:
    """Offer ``torch`` (the reference), ``grouped`` and ``triton``."""
    from sfi_kernels.bundles import GroupedKernel, TorchKernel, TritonKernel

    register("torch", TorchKernel)
    register("grouped", GroupedKernel)
    register("triton", TritonKernel)
