"""Whole numbers rounded up, where a launch is laid out: Triton's own serve kernels, too, and take longer."""

from __future__ import annotations


def cdiv(number: int, each: int) -> int:
    """How many parts of ``each`` hold a number."""
    return -(-number // each)


def next_power_of_2(number: int) -> int:
    """The smallest power of two that is no less than a number, which is at least 1."""
    return 1 << (number - 1).bit_length()
