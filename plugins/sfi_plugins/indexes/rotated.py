"""A few bits for each element of a key, after a random rotation."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import embedding, embedding_bag, pad

from sfi_agent.contracts import Coding, KeyIndex, State

LEVELS = {
    1: (0.7979,),
    2: (0.4528, 1.5104),
    4: (0.1284, 0.3881, 0.6568, 0.9424, 1.2562, 1.6181, 2.0690, 2.7326),
}
"""Positive output levels of the Lloyd-Max quantiser of a unit Gaussian, by bits (Max 1960, table I)."""
CHUNK = 2**16
"""Positions estimated at a time."""
LOOKED_UP = 16
"""Queries of a KV head, at most, for which a CPU looks products up."""
GROWTH = 1024
"""Capacity grows in multiples of this many positions; so many are coded at a time, so that what coding
needs besides stays small (a context coded whole took 60 times the bytes of its codes)."""


class RotatedIndex(KeyIndex):
    """Keys less their mean, rotated at random, each element at ``bits`` bits, one scale a key.

    The rotation spreads a key's energy evenly over its elements, which makes one quantiser fit all
    (RaBitQ, arXiv 2405.12497; QuaRot, arXiv 2404.00456). The mean is that of the first keys appended:
    a product with it is the same for every key, so estimates leave it out.

    Args:
        bits: 1, 2 or 4.
    """

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self._mean: Tensor | None = None
        self._codes = torch.empty(0, 0, 0, dtype=torch.uint8)
        self._scales = torch.empty(0, 0, dtype=torch.float16)

    def append(self, keys: Tensor) -> None:
        if not keys.shape[1]:
            return
        if self._mean is None:
            self._mean = keys.mean(1, keepdim=True, dtype=torch.float32)
        self._reserve(self.length + keys.shape[1], keys)
        for part in keys.split(GROWTH, 1):
            self._code(part, self._mean)

    def _code(self, keys: Tensor, mean: Tensor) -> None:
        end = self.length + keys.shape[1]
        self._codes[:, self.length : end], self._scales[:, self.length : end] = coded(keys, mean, self.bits)
        self.length = end

    def truncate(self, length: int) -> None:
        self.length = min(self.length, length)
        if not self.length:
            self._mean = None

    def state(self) -> State:
        """The positions coded, without the room for more."""
        return {
            "bits": self.bits,
            "length": self.length,
            "mean": self._mean,
            "codes": self._codes[:, : self.length],
            "scales": self._scales[:, : self.length],
        }

    def restore(self, state: State) -> None:
        if state["bits"] != self.bits:
            raise ValueError(f"the stored codes have {state['bits']} bits an element, not {self.bits}")
        self.length, self._mean = state["length"], state["mean"]
        self._codes, self._scales = state["codes"], state["scales"]

    def products(self, queries: Tensor, first: int, last: int, positions: Tensor | None = None) -> Tensor:
        n, kv_heads, group, dim = queries.shape
        turned = (queries.float() @ rotation(dim, queries.device)).transpose(0, 1)
        turned = turned.reshape(kv_heads, n * group, dim)
        looked_up = queries.device.type == "cpu" and n * group <= LOOKED_UP
        estimate = self._by_bytes if looked_up else self._by_elements
        if positions is None:
            codes, scales = self._codes[:, first:last], self._scales[:, first:last]
        else:
            codes = self._codes.gather(1, positions[..., None].expand(-1, -1, self._codes.shape[2]))
            scales = self._scales.gather(1, positions)
        out = turned.new_empty(kv_heads, n * group, codes.shape[1])
        parts = zip(codes.split(CHUNK, 1), scales.split(CHUNK, 1), out.split(CHUNK, 2), strict=True)
        for part, scale, place in parts:
            torch.mul(estimate(turned, part), scale[:, None].float(), out=place)
        return out.view(kv_heads, n, group, -1).transpose(0, 1)

    def bytes_read(self, positions: int) -> float:
        heads, _, width = self._codes.shape
        return heads * positions * (width + self._scales.element_size())

    def _by_elements(self, turned: Tensor, codes: Tensor) -> Tensor:
        """Products ``[H_kv, Q, P]`` of ``[H_kv, Q, D]`` with packed codes ``[H_kv, P, D * bits / 8]``."""
        levels = embedding(codes.int(), symbols_of(self.bits, codes.device)).flatten(2)
        return turned @ levels[..., : turned.shape[2]].transpose(1, 2)

    def _by_bytes(self, turned: Tensor, codes: Tensor) -> Tensor:
        """As :meth:`_by_elements`, what each byte of a code may add looked up.

        The asymmetric distances of Jegou et al., Product Quantization for Nearest Neighbor Search, 2011: no
        code is decoded, and few queries' table stays in the cache.
        """
        (heads, places, width), symbols = codes.shape, symbols_of(self.bits, codes.device)
        bytewise = pad(turned, (0, width * symbols.shape[1] - turned.shape[2])).unflatten(2, (width, -1))
        table = (bytewise.transpose(1, 2) @ symbols.T).transpose(2, 3).reshape(-1, turned.shape[1])
        entries = codes.int().add_(first_entries(heads, width)).view(-1, width)
        sums = embedding_bag(entries, table, mode="sum")
        return sums.view(heads, places, turned.shape[1]).transpose(1, 2)

    def _reserve(self, end: int, keys: Tensor) -> None:
        """Make room for positions up to ``end`` of keys like these ``[H_kv, n, D]``."""
        if end <= self._codes.shape[1]:
            return
        heads, capacity = keys.shape[0], -(-(end + end // 8) // GROWTH) * GROWTH
        kept = self._codes[:, : self.length], self._scales[:, : self.length]
        width = -(-keys.shape[2] * self.bits // 8)
        self._codes = keys.new_empty(heads, capacity, width, dtype=torch.uint8)
        self._scales = keys.new_empty(heads, capacity, dtype=torch.float16)
        if self.length:
            self._codes[:, : self.length], self._scales[:, : self.length] = kept


class RotatedCoding(Coding):
    """The same code, for kernels that choose by it.

    Args:
        bits: 1, 2 or 4.
    """

    nearest = True

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self.levels = (*(-level for level in reversed(LEVELS[bits])), *LEVELS[bits])

    def rotation(self, like: Tensor) -> Tensor:
        return rotation(like.shape[-1], like.device)

    def code(self, keys: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        return coded(keys, mean, self.bits)


def coded(keys: Tensor, mean: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Codes ``[..., D * bits / 8]`` uint8 and scales ``[...]`` float32 of keys ``[..., D]`` less their mean.

    In float64, so that a key has one code, however many are coded with it: sums of other sizes are made in
    another order, and a session that comes back codes anew what it had coded step by step.
    """
    turned = (keys.double() - mean) @ rotation(keys.shape[-1], keys.device).double()
    size = turned.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-12)
    levels = codebook(bits, keys.device)
    symbols = torch.bucketize((turned / size).float(), (levels[1:] + levels[:-1]) / 2)
    # The scale that makes the estimate of k . k right, as RaBitQ's: no shrinking towards 0.
    scales = turned.square().sum(-1) / (turned * levels[symbols]).sum(-1).clamp_min(1e-12)
    return packed(symbols, bits), scales.float()


@lru_cache(maxsize=8)
def rotation(dim: int, device: torch.device) -> Tensor:
    """``[D, D]`` float32: a random orthogonal matrix, the same on every device."""
    drawn = torch.randn(dim, dim, generator=torch.Generator().manual_seed(dim), dtype=torch.float64)
    return torch.linalg.qr(drawn).Q.float().to(device)


@lru_cache(maxsize=8)
def codebook(bits: int, device: torch.device) -> Tensor:
    """``[2 ** bits]`` float32 levels, ascending."""
    positive = torch.tensor(LEVELS[bits], device=device)
    return torch.cat([-positive.flip(0), positive])


@lru_cache(maxsize=8)
def symbols_of(bits: int, device: torch.device) -> Tensor:
    """``[256, 8 / bits]`` float32: the levels that a byte stands for."""
    byte = torch.arange(256, device=device)[:, None]
    shifts = torch.arange(0, 8, bits, device=device)
    return codebook(bits, device)[(byte >> shifts) & (2**bits - 1)]


@lru_cache(maxsize=8)
def first_entries(heads: int, width: int) -> Tensor:
    """``[H_kv, 1, B]`` int32: where each of a code's B bytes has its 256 entries of a table."""
    return torch.arange(heads * width, dtype=torch.int32).view(heads, 1, width) * 256


def packed(symbols: Tensor, bits: int) -> Tensor:
    """``[..., D]`` symbols below ``2 ** bits`` to ``[..., ceil(D * bits / 8)]`` uint8, lowest bits first."""
    each = 8 // bits
    padded = pad(symbols, (0, -symbols.shape[-1] % each))
    shifts = torch.arange(0, 8, bits, device=symbols.device)
    return (padded.unflatten(-1, (-1, each)) << shifts).sum(-1).to(torch.uint8)
