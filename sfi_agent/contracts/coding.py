"""Codes of keys, by whose estimates a kernel can choose."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor


class Coding(ABC):
    """A code of keys by whose estimates a kernel can choose.

    What it chooses are the positions of the highest estimated probability, averaged over a group's query
    heads, for all KV heads of a layer together (:func:`sfi_agent.contracts.top_jointly`).

    Attributes:
        bits: of an element.
        levels: ``2 ** bits``, ascending, what each symbol stands for.
        nearest: whether the code is that of ``kernels/sfi_kernels/coding/README.md``, so that a kernel may
            find it itself: elements of the rotated key over their root mean square, each the nearest level.
            A subclass with another ``code`` sets it False.
    """

    bits: int
    levels: tuple[float, ...]
    nearest: bool = False

    @abstractmethod
    def rotation(self, like: Tensor) -> Tensor:
        """``[D, D]`` float32 on the device of keys ``[..., D]``: what they are rotated by."""

    @abstractmethod
    def code(self, keys: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Codes ``[..., D * bits / 8]`` uint8 and scales ``[...]`` of keys ``[..., D]`` less ``mean``."""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.bits == getattr(other, "bits", None)

    def __hash__(self) -> int:
        return hash((type(self), self.bits))
