"""Selections of the highest scores, the same on every device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import max_pool1d

from sfi_agent.contracts.selector import Selection

SAMPLED = 16
"""On a CPU one score in so many is a sample of its row."""

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
    if kept.device.type == "cpu":
        return Selection(_packed_on_cpu(kept, start))
    counts = kept.sum(-1, keepdim=True)
    width = int(counts.max()) if counts.numel() else 0
    used = torch.arange(width, device=kept.device) >= width - counts
    positions = counts.new_full(used.shape, -1)
    return Selection(positions.masked_scatter_(used, kept.nonzero()[:, -1] + start))


def _packed_on_cpu(kept: Tensor, start: int) -> Tensor:
    """As :func:`packed`, in numpy, whose calls take a CPU a fraction of the time for a step's few rows."""
    rows = [np.flatnonzero(row) for row in kept.flatten(0, -2).numpy()]
    width = max(map(len, rows), default=0)
    positions = np.full((len(rows), width), -1)
    for row, places in zip(positions, rows, strict=True):
        row[width - len(places) :] = places + start
    return torch.from_numpy(positions).view(*kept.shape[:-1], width)


def _best(scores: Tensor, count: int) -> Tensor:
    """Mask of the ``count`` highest of ``[..., P]`` float32, the earlier of equals."""
    threshold = _nth(scores, count)
    if scores.device.type == "cpu":
        kept = scores >= threshold
        if np.count_nonzero(kept.numpy()) == count * threshold.numel():
            return kept  # no more than wanted equal the lowest
    above, equal = scores > threshold, scores == threshold
    missing = count - above.sum(-1, keepdim=True)
    return above | (equal & (equal.cumsum(-1) <= missing))


def _nth(scores: Tensor, count: int) -> Tensor:
    """``[..., 1]``: the lowest of the ``count`` highest along the last axis."""
    if scores.device.type != "cpu":
        return scores.topk(count, dim=-1, sorted=False).values.amin(-1, keepdim=True)
    lowest = [_nth_of_row(row, count) for row in scores.reshape(-1, scores.shape[-1]).numpy()]
    return scores.new_tensor(lowest).view(*scores.shape[:-1], 1)


def _nth_of_row(row: np.ndarray, count: int) -> float:
    """The lowest of a row's ``count`` highest, of those that a sample does not rule out.

    A partition of all takes twice as long, and topk, which orders places beside values, four times.
    """
    sample = row[::SAMPLED]
    place = len(sample) - count * 5 // (4 * SAMPLED) - 8  # somewhat more than wanted are above
    if place > 0:
        above = row[np.flatnonzero(row >= np.partition(sample, place)[place])]
        row = above if len(above) >= count else row
    return float(np.partition(row, len(row) - count)[len(row) - count])
