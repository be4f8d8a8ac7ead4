"""Tokens drawn at random where their logits are, for many rows at a time.

The noise of a token depends on the seed, the position and the token alone, by a hash of these in integers:
it is the same on every device, whatever else is drawn, and nothing has to be sent for it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

NUMBERS = 5
"""Of a :class:`Draw`, as a step on the device is sent them."""
DRAWN = 32
"""Tokens drawn, or sorted for, at a time in plain torch: it takes several times their logits' memory."""
# SplitMix64's: the odd step between its states, and the multipliers of its finalizer (Steele et al. 2014).
STEP, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


@dataclass(frozen=True)
class Draw:
    """How a row's tokens are drawn.

    Attributes:
        temperature: above 0.
        seed: of the noise; its lowest 64 bits count.
        top_k: only so many of the likeliest may come, and the equals of the last; 0: all.
        top_p: of those so many, only the likeliest that together have this share of their probability, and
            the equals of the last.
    """

    temperature: float
    seed: int
    top_k: int = 0
    top_p: float = 1.0

    @cached_property
    def numbers(self) -> tuple[int, ...]:
        """``NUMBERS`` of int32, which a :class:`Drawing` has."""
        share = max(self.top_p, float(np.finfo(np.float32).tiny))
        temperature, share = np.array([self.temperature, share], np.float32).view(np.int32).tolist()
        return temperature, *halves(self.seed), min(self.top_k, 2**31 - 1), share

    def likeliest(self, vocabulary: int) -> int:
        """How many of the likeliest tokens tell which are left out; 0: none is."""
        if 0 < self.top_k < vocabulary:
            return self.top_k
        return vocabulary if np.float32(self.top_p) < 1 else 0


class Drawing(NamedTuple):
    """How the tokens that follow N others are drawn.

    Attributes:
        numbers: ``[N, NUMBERS]`` int32 of each one's :class:`Draw`; zeros: it is the most likely.
        positions: ``[N]`` int64 of the tokens that are drawn; a position is the number of tokens before it.
        likeliest: at least the largest of their :meth:`Draw.likeliest`.
    """

    numbers: Tensor
    positions: Tensor
    likeliest: int = 0

    @classmethod
    def of(cls, draws: Sequence[Draw | None], positions: Tensor, vocabulary: int) -> Drawing:
        """Of N tokens; None: the most likely."""
        numbers = [draw.numbers if draw else NUMBERS * (0,) for draw in draws]
        likeliest = max((draw.likeliest(vocabulary) for draw in draws if draw), default=0)
        return cls(torch.tensor(numbers, dtype=torch.int32, device=positions.device), positions, likeliest)

    def split(self) -> Iterator[tuple[slice, Drawing]]:
        """As many of them at a time as there should be memory for, and where."""
        for begin in range(0, len(self.positions), DRAWN):
            part = slice(begin, begin + DRAWN)
            yield part, Drawing(self.numbers[part], self.positions[part], self.likeliest)

    @property
    def temperatures(self) -> Tensor:
        """``[N]`` float32."""
        return self.numbers[:, 0].view(torch.float32)

    @property
    def seeds(self) -> Tensor:
        """``[N]`` int64."""
        low, high = self.numbers[:, 1:3].long().unbind(-1)
        return (low & 0xFFFFFFFF) | (high << 32)

    def least(self, logits: Tensor) -> Tensor:
        """``[N]`` float32, the lowest logit of those ``[N, vocabulary]`` that may come; -inf: all may."""
        return torch.cat([own._least(logits[part]) for part, own in self.split()])

    def _least(self, logits: Tensor) -> Tensor:
        most = min(self.likeliest, logits.shape[-1])
        whole = most == logits.shape[-1]
        top = logits.sort(-1, descending=True).values if whole else logits.topk(most).values
        counts, shares = self.numbers[:, 3:4], self.numbers[:, 4:5].view(torch.float32)
        within = (torch.arange(most, device=logits.device) < counts) | (counts == 0)
        scaled = top.float() / torch.where(self.temperatures > 0, self.temperatures, 1.0)[:, None]
        probabilities = scaled.masked_fill(~within, -torch.inf).softmax(-1)
        kept = within & ((probabilities.cumsum(-1) - probabilities < shares) | (shares == 1))
        last = top.float().gather(-1, kept.sum(-1, keepdim=True).sub(1).clamp_min(0))
        cut = (counts > 0) | ((shares > 0) & (shares < 1))
        return torch.where(cut, last, -torch.inf)[:, 0]


def halves(number: int) -> tuple[int, int]:
    """The lower and the upper half of a number's lowest 64 bits, as int32."""
    low, high = struct.unpack("<ii", struct.pack("<Q", number % 2**64))
    return low, high


def noise(seeds: Tensor, positions: Tensor, size: int) -> Tensor:
    """Exponentially distributed numbers ``[N, size]`` float32 for the tokens at N positions.

    Not to be compiled: torch's compiler (2.13, for CPUs) gets another hash.

    Args:
        seeds, positions: ``[N]`` int64.
        size: of the vocabulary.
    """
    states = _hashed(_hashed(seeds) + positions * _signed(STEP))[:, None]
    tokens = torch.arange(1, size + 1, device=seeds.device)
    bits = (_hashed(states + tokens * _signed(STEP)) >> 33) & (2**31 - 1)
    uniform = (bits.float() + 0.5) * 2.0**-31
    return -torch.log1p(-uniform.clamp_max(1 - 2.0**-24))


def weighed(logits: Tensor, drawing: Drawing) -> Tensor:
    """``[N, vocabulary]`` float32 whose highest are the tokens: drawn, or most likely where nothing is.

    A token is drawn as the highest ``logit / temperature - log(noise)`` (the Gumbel-max trick).

    Args:
        logits: ``[N, vocabulary]``.
        drawing: how.
    """
    scores, temperatures = logits.float(), drawing.temperatures[:, None]
    draws = temperatures > 0
    found = scores / torch.where(draws, temperatures, 1.0)
    found -= noise(drawing.seeds, drawing.positions, scores.shape[-1]).log()
    if drawing.likeliest:
        found = found.masked_fill(scores < drawing.least(logits)[:, None], -torch.inf)
    return torch.where(draws, found, scores)


def _hashed(states: Tensor) -> Tensor:
    """SplitMix64's finalizer of int64; shifts are of unsigned numbers."""
    states = (states ^ (states >> 30 & 2**34 - 1)) * _signed(FIRST)
    states = (states ^ (states >> 27 & 2**37 - 1)) * _signed(SECOND)
    return states ^ (states >> 31 & 2**33 - 1)


def _signed(number: int) -> int:
    """The int64 of the same bits."""
    return (number + 2**63) % 2**64 - 2**63
