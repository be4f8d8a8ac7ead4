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
NUMBERS = 3
"""Of a :class:`Draw`, as a step on the device is sent them."""
# SplitMix64's: the odd step between its states, and the multipliers of its finalizer (Steele et al. 2014).
STEP, FIRST, SECOND = (
    value - 2**64 for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


class Draw(NamedTuple):
    """How a row's tokens are drawn, each from all of the vocabulary.

    Attributes:
        temperature: above 0.
        seed: of the noise; its lowest 64 bits count.
    """

    temperature: float
    seed: int

    @property
    def numbers(self) -> tuple[int, ...]:
        """``NUMBERS`` of int32, which :func:`weighed` reads."""
        (temperature,) = np.array([self.temperature], dtype=np.float32).view(np.int32).tolist()
        return temperature, *halves(self.seed)


def halves(number: int) -> tuple[int, int]:
    """The lower and the upper half of a number's lowest 64 bits, as int32."""
    low, high = np.array([number % 2**64], dtype=np.uint64).view(np.int32).tolist()
    return low, high


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


def weighed(logits: Tensor, numbers: Tensor, positions: Tensor) -> Tensor:
    """``[N, vocabulary]`` float32 whose highest are the tokens: drawn, or most likely where nothing is.

    Args:
        logits: ``[N, vocabulary]``.
        numbers: ``[N, NUMBERS]`` int32 of each row's :class:`Draw`; zeros: nothing is drawn.
        positions: ``[N]`` int64 of the tokens that are drawn.
    """
    temperatures, (low, high) = numbers[:, :1].view(torch.float32), numbers[:, 1:].long().unbind(-1)
    seeds = (low & 0xFFFFFFFF) | (high << 32)
    scores, draws = logits.float(), temperatures > 0
    scaled = scores / torch.where(draws, temperatures, 1.0)
    drawn = scaled.softmax(-1) / noise(seeds, positions, scores.shape[-1])
    return torch.where(draws, drawn, scores)


def _hashed(states: Tensor) -> Tensor:
    """SplitMix64's finalizer of int64; shifts are of unsigned numbers."""
    states = (states ^ (states >> 30 & 2**34 - 1)) * FIRST
    states = (states ^ (states >> 27 & 2**37 - 1)) * SECOND
    return states ^ (states >> 31 & 2**33 - 1)
