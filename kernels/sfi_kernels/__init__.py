"""Attention kernels: a folder for each operation, ``reference.py`` being the truth in it."""

from functools import lru_cache
from importlib.util import find_spec

import torch

from sfi_agent.contracts import AttentionKernel
from sfi_agent.hookspecs import Register, hookimpl


@hookimpl
def sfi_register_kernels(register: Register[AttentionKernel]) -> None:
    """Offer ``torch`` (the reference), ``grouped`` and ``triton``."""
    from sfi_kernels.bundles import GroupedKernel, TorchKernel, TritonKernel

    register("torch", TorchKernel)
    register("grouped", GroupedKernel)
    register("triton", TritonKernel)
    _register_operators()


@lru_cache(maxsize=1)
def _register_operators() -> None:
    """Kernels of operators on CUDA devices; the selector's is known by its name alone."""
    if find_spec("triton") and torch.cuda.is_available():
        from sfi_kernels.highest.triton import highest
        from sfi_kernels.paper_scores.triton import paper_scores
        from sfi_kernels.sliding_max.triton import sliding_max

        torch.library.impl("sfi_agent::highest", "cuda", highest)
        torch.library.impl("sfi_agent::sliding_max", "cuda", sliding_max)
        torch.library.impl("sfi_plugins::paper_scores", "cuda", paper_scores)
