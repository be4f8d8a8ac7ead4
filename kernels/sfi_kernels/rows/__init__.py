"""Attention of a lane's rows: in plain PyTorch row by row, and in Triton all at once."""

from sfi_kernels.rows.plain import TorchRows
from sfi_kernels.rows.triton import TritonRows

__all__ = ["TorchRows", "TritonRows"]
