"""A sparse memory's positions as a coarse strip, small enough to be told at every step."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

BINS = 512
"""Bins of the context, at most."""
ROWS = 24
"""Groups of layers times groups of KV heads, at most."""
HEADS = 8
"""Groups of KV heads, at most."""
LEVELS = 15
"""The level of a bin whose every position is held."""


def strip(chosen: Mapping[int, Tensor], sink: int, tail: int, length: int) -> dict[str, Any]:
    """The fields ``chosen``, ``width``, ``layers``, ``heads`` and ``levels`` of a ``Memory``.

    Args:
        chosen: by layer, positions ``[H_kv, S]`` between sink and recent, -1 in unused places.
        sink: first positions, all held.
        tail: from here to ``length`` all are held, too.
        length: tokens in the context.
    """
    layers, heads = sorted(chosen), max(len(each) for each in chosen.values())
    head_groups = min(heads, HEADS)
    layer_groups = min(len(layers), ROWS // head_groups)
    width = bin_width(length)
    bins = -(-length // width)
    counts = torch.zeros(layer_groups * head_groups * bins)
    members = torch.zeros(layer_groups, head_groups)
    for place, layer in enumerate(layers):
        positions, group = chosen[layer], place * layer_groups // len(layers)
        own = torch.arange(len(positions), device=positions.device) * head_groups // len(positions)
        members[group] += torch.bincount(own.cpu(), minlength=head_groups)
        found = (group * head_groups + own)[:, None] * bins + positions.clamp_min(0) // width
        counts += torch.bincount(found[positions >= 0], minlength=len(counts)).cpu()
    held = counts.view(layer_groups, head_groups, bins)
    used = float(held.sum() / members.sum())
    always, sizes = _always(sink, tail, length, width)
    share = (held / members[..., None] + always) / sizes
    levels = (share * LEVELS).ceil().clamp(0, LEVELS).to(torch.uint8)
    return {
        "chosen": used,
        "width": width,
        "layers": _named(layers, layer_groups),
        "heads": _named(range(heads), head_groups),
        "levels": packed(levels.numpy().tobytes()),
    }


def bin_width(length: int) -> int:
    """The smallest power of two of which ``BINS`` cover ``length`` positions."""
    return 1 << max(0, (length - 1) // BINS).bit_length()


def packed(levels: bytes) -> str:
    """Bytes, compressed, as text."""
    return base64.b64encode(zlib.compress(levels, 9)).decode("ascii")


def unpacked(levels: str) -> bytes:
    """What was :func:`packed`."""
    return zlib.decompress(base64.b64decode(levels))


def _always(sink: int, tail: int, length: int, width: int) -> tuple[Tensor, Tensor]:
    """For each bin the positions of sink and recent in it, and all positions in it."""
    edges = torch.arange(0, length + width, width).clamp_max(length).float()
    low, high = edges[:-1], edges[1:]
    begin = (high.clamp_max(sink) - low).clamp_min(0)
    end = (high - low.clamp_min(tail)).clamp_min(0)
    return begin + end, high - low


def _named(members: Any, groups: int) -> tuple[str, ...]:
    """``0-3`` or ``7`` for each group of consecutive members."""
    listed = [[] for _ in range(groups)]  # type: list[list[int]]
    for place, member in enumerate(members):
        listed[place * groups // len(members)].append(member)
    return tuple(f"{each[0]}-{each[-1]}" if len(each) > 1 else f"{each[0]}" for each in listed)
