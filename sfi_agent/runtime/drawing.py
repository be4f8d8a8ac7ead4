"""Tokens drawn at random where their logits are, for many rows at a time.

The noise of a token depends on the seed, the position and the token alone, by a hash of these in integers:
it is the same on every device, whatever else is drawn, and nothing has to be sent for it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

COLDEST = 1e-9
"""Lowest temperature above 0: colder ones would divide float32 logits into infinities."""
NUMBERS = 5
"""Of a :class:`Draw`, as a step on the device is sent them."""
# SplitMix64's: the odd step between its states, and the multipliers of its finalizer (Steele et al. 2014).
STEP, FIRST, SECOND = (
    value - 2**64 for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


class Draw(NamedTuple):
    """How a row's tokens are drawn.

    Attributes:
        temperature: above 0.
        top_k: tokens kept; 0: all.
        top_p: probability of the tokens kept; 1: all.
        seed: of the noise, up to 64 bits.
    """

    temperature: float
    top_k: int
    top_p: float
    seed: int

    @property
    def cuts(self) -> bool:
        """Whether some tokens are left out."""
        return self.top_k > 0 or self.top_p < 1

    @property
    def numbers(self) -> tuple[int, ...]:
        """``NUMBERS`` of int32, which :func:`told` takes apart."""
        reals = np.array([self.temperature, 1 - self.top_p], dtype=np.float32)
        temperature, left_out = reals.view(np.int32).tolist()
        low, high = np.array([self.seed % 2**64], dtype=np.uint64).view(np.int32).tolist()
        return temperature, left_out, min(self.top_k, 2**31 - 1), low, high


def noise(seeds: Tensor, positions: Tensor, size: int) -> Tensor:
    """Exponentially distributed numbers ``[N, size]`` float32 for the tokens at N positions.

    Not to be compiled: torch's compiler (2.13, for CPUs) gets another hash.

    Args:
        seeds, positions: ``[N]`` int64; a position is the number of tokens before it.
        size: of the vocabulary.
    """
    states = _hashed(_hashed(seeds) + positions * STEP)[:, None]
    tokens = torch.arange(1, size + 1, device=seeds.device)
    bits = (_hashed(states + tokens * STEP) >> 33) & (2**31 - 1)
    uniform = (bits.float() + 0.5) * 2.0**-31
    return -torch.log1p(-uniform.clamp_max(1 - 2.0**-24))


def told(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Reals ``[N, 2]`` and integers ``[N, 3]`` of ``numbers [N, NUMBERS]``, contiguous int32; 0: no draw."""
    return numbers.view(torch.float32)[:, :2], numbers[:, 2:]


def weighed(
    logits: Tensor, reals: Tensor, integers: Tensor, positions: Tensor, *, cuts: bool = False
) -> Tensor:
    """``[N, vocabulary]`` float32 whose highest are the tokens: drawn, or most likely where nothing is.

    What is left out is what transformers' own processors leave out, in their order.

    Args:
        logits: ``[N, vocabulary]``.
        reals, integers: of :func:`told`.
        positions: ``[N]`` int64 of the tokens that are drawn.
        cuts: whether some rows leave tokens out.
    """
    temperatures, left_out, (top_k, low, high) = reals[:, :1], reals[:, 1:], integers.long().unbind(-1)
    seeds = (low & 0xFFFFFFFF) | (high << 32)
    scores, draws = logits.float(), temperatures > 0
    scaled = scores / torch.where(draws, temperatures, 1.0)
    if cuts:
        scaled = _cut(scaled, top_k[:, None], left_out)
    drawn = scaled.softmax(-1) / noise(seeds, positions, scores.shape[-1])
    return torch.where(draws, drawn, scores)


def _cut(scores: Tensor, top_k: Tensor, left_out: Tensor) -> Tensor:
    """``scores [N, V]``, -inf where a token is not among the ``top_k [N, 1]`` or among the least probable.

    Of these as many are left out as have the probability ``left_out [N, 1]`` together, and never all; of
    equals those that come first.
    """
    size = scores.shape[-1]
    ordered, order = torch.sort(scores, dim=-1, stable=True)
    kept = torch.where(top_k > 0, top_k, size).clamp_max(size)
    least = ordered.gather(-1, size - kept)
    scores, ordered = (part.masked_fill(part < least, -torch.inf) for part in (scores, ordered))
    beyond = (ordered.softmax(-1).cumsum(-1) <= left_out) & (left_out > 0)
    beyond &= torch.arange(size, device=scores.device) < size - 1  # one token is left
    return scores.masked_fill(beyond.scatter(-1, order, beyond), -torch.inf)


def _hashed(states: Tensor) -> Tensor:
    """SplitMix64's finalizer of int64; shifts are of unsigned numbers."""
    states = (states ^ (states >> 30 & 2**34 - 1)) * FIRST
    states = (states ^ (states >> 27 & 2**37 - 1)) * SECOND
    return states ^ (states >> 31 & 2**33 - 1)
