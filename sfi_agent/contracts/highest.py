"""Selections of the highest scores, the same on every device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import max_pool1d

from sfi_agent.contracts.selector import Selection

torch.library.define("sfi_agent::highest", "(Tensor scores, int count, int start) -> Tensor")
torch.library.define("sfi_agent::sliding_max", "(Tensor scores, int window) -> Tensor")


def top_positions(scores: Tensor, count: int, start: int) -> Selection:
    """The ``count`` best-scoring candidates, ties broken by the earlier position.

    Args:
        scores: ``[N, H_kv, P]``; higher is better, ``-inf`` allowed, NaN not.
        count: positions to keep, ``0 <= count <= P``.
        start: position of the first candidate.

    Returns:
        positions ``[N, H_kv, count]`` int64, ascending. ``torch.topk`` leaves the order of equal
        scores open; this does not, so every device selects the same positions.
    """
    lead = scores.shape[:-1]
    if count == 0:
        return Selection(torch.empty(*lead, 0, dtype=torch.int64, device=scores.device))
    return Selection(highest(scores.float(), count, start))


def highest(scores: Tensor, count: int, start: int) -> Tensor:
    """Places of the ``count`` highest of each row, ascending, the earlier of equals.

    An operator, ``sfi_agent::highest``, of which devices may have their own (:func:`torch.library.impl`).

    Args:
        scores: ``[..., P]`` float32, no NaN.
        count: ``0 < count <= P``.
        start: the first place.

    Returns:
        ``[..., count]`` int64.
    """
    found: Tensor = torch.ops.sfi_agent.highest(scores, count, start)
    return found


@torch.library.impl("sfi_agent::highest", "default")
def _plain_highest(scores: Tensor, count: int, start: int) -> Tensor:
    return _best(scores, count).nonzero()[:, -1].view(*scores.shape[:-1], count) + start


def sliding_max(scores: Tensor, window: int) -> Tensor:
    """The greatest of each place's scores: ``window // 2`` before it, its own, ``(window - 1) // 2`` behind.

    An operator, as :func:`highest` is.

    Args:
        scores: ``[N, H_kv, P]`` float32, no NaN.
        window: places, at least 1.

    Returns:
        ``[N, H_kv, P]`` float32.
    """
    found: Tensor = torch.ops.sfi_agent.sliding_max(scores, window)
    return found


@torch.library.impl("sfi_agent::sliding_max", "default")
def _plain_sliding_max(scores: Tensor, window: int) -> Tensor:
    return max_pool1d(scores, window, stride=1, padding=window // 2)[..., : scores.shape[-1]]


def top_jointly(scores: Tensor, count: int, start: int) -> Selection:
    """The ``H_kv * count`` best-scoring candidates of a layer's heads together.

    A head whose mass is spread keeps more, one whose mass is in one place keeps fewer.

    Args:
        scores: ``[N, H_kv, P]``, comparable between heads (probabilities).
        count: positions to keep for each head on average.
        start: position of the first candidate.

    Returns:
        positions ``[N, H_kv, S]``, S the most that one head keeps, -1 in unused places.
    """
    lead, heads, places = scores.shape[:-2], *scores.shape[-2:]
    scores = scores.float().reshape(*lead, -1)
    kept = _best(scores, count * heads) if count else torch.zeros_like(scores).bool()
    return packed(kept.view(*lead, heads, places), start)


def packed(kept: Tensor, start: int) -> Selection:
    """Positions of a mask ``[..., P]``, ascending, -1 in the unused places before them."""
    counts = kept.sum(-1, keepdim=True)
    width = int(counts.max()) if counts.numel() else 0
    used = torch.arange(width, device=kept.device) >= width - counts
    positions = counts.new_full(used.shape, -1)
    return Selection(positions.masked_scatter_(used, kept.nonzero()[:, -1] + start))


def _best(scores: Tensor, count: int) -> Tensor:
    """Mask of the ``count`` highest of ``[..., P]`` float32, the earlier of equals."""
    threshold = _nth(scores, count)
    above, equal = scores > threshold, scores == threshold
    missing = count - above.sum(-1, keepdim=True)
    return above | (equal & (equal.cumsum(-1) <= missing))


def _nth(scores: Tensor, count: int) -> Tensor:
    """``[..., 1]``: the lowest of the ``count`` highest along the last axis."""
    if scores.device.type != "cpu":
        return scores.topk(count, dim=-1, sorted=False).values.amin(-1, keepdim=True)
    place = scores.shape[-1] - count  # topk orders places beside values, which takes a CPU twice as long
    return torch.from_numpy(np.partition(scores.numpy(), place)[..., place : place + 1])
