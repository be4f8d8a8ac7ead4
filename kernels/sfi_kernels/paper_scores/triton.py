"""Scores of Slow-Fast Inference's selector (arXiv 2603.12038), from the mass on, in two launches."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sfi_kernels.index_scores.reference import LOG2_E
from sfi_kernels.rounding import cdiv, next_power_of_2
from sfi_kernels.sliding_max.triton import greatest_around

ROW, ROW_WARPS = 2048, 8
"""Positions of one head at a time, and warps of the program that goes over them."""
TILE = 2048
"""Scores of a program that compares the heads of a layer."""


def paper_scores(
    mass: Tensor,
    key_norms: Tensor | None,
    norm_weight: float,
    position_weight: float,
    decay: float,
    decay_power: float,
    damping: float,
    limit: float,
    fusion: bool,
    window: int,
    temperature: float,
    repulsion: float,
) -> Tensor:
    """What ``sfi_plugins::paper_scores`` computes, with the same arguments.

    Args:
        mass: ``[N, H_kv, P]`` float32, not below 0.
        key_norms: ``[N, H_kv, P]`` float32; None: there is no prior.
        norm_weight, position_weight, decay, decay_power, damping: of the prior.
        limit: of the prior's share.
        fusion: whether the share is computed; otherwise it is the limit.
        window: positions of a neighbourhood; 1: nothing is suppressed.
        temperature: of the softmax over KV heads.
        repulsion: weight of its logarithm; 0: heads are not compared.

    Returns:
        ``[N, H_kv, P]`` float32.
    """
    layers, heads, places = mass.shape
    mass = mass.contiguous()
    norms = mass if key_norms is None else key_norms.contiguous()
    logs, wide = torch.empty_like(mass), next_power_of_2(heads)
    block = min(ROW, max(128, next_power_of_2(places)))
    _mix[layers * heads,](
        mass, norms, logs, places, norm_weight, position_weight * damping, position_weight * decay,
        decay_power, limit, BLOCK=block, PRIOR=key_norms is not None, FUSION=fusion, LOG2_E=LOG2_E,
        num_warps=ROW_WARPS,
    )  # fmt: skip
    if window == 1 and repulsion == 0:
        return logs
    out, block = torch.empty_like(logs), max(16, TILE // wide)
    _contest[layers, cdiv(places, block)](
        logs, out, places, window, LOG2_E / temperature, repulsion / LOG2_E,
        HEADS=heads, WIDE=wide, BLOCK=block, EXCLUDE=repulsion != 0, num_warps=4,
    )  # fmt: skip
    return out


@triton.jit
def _prior(norms, place, inside, places, norm_weight, near, far, decay_power, LOG2_E: tl.constexpr):
    """The prior's logit of each place, to be taken as a power of two; next to nothing where there is none."""
    step = 1.0 / tl.maximum(places - 1, 1).to(tl.float32)
    left = (places - 1 - place).to(tl.float32) * step
    x = tl.where(2 * place < places, place.to(tl.float32) * step, 1 - left)
    age = tl.where(x > 0, tl.exp2(decay_power * tl.log2(tl.maximum(x, 1e-37))), 0.0)
    norm = tl.maximum(tl.load(norms + place, mask=inside, other=1.0), 1e-6)
    logit = near * tl.log2(tl.maximum(1 - x, 1e-6)) - far * LOG2_E * age - norm_weight * tl.log2(norm)
    return tl.where(inside, logit, -1e30)


@triton.jit(do_not_specialize=["places"])
def _mix(
    mass, norms, logs, places, norm_weight, near, far, decay_power, limit,
    BLOCK: tl.constexpr, PRIOR: tl.constexpr, FUSION: tl.constexpr, LOG2_E: tl.constexpr,
):  # fmt: skip
    """One layer and KV head: the logarithm of its mass and of the prior, mixed."""
    TINY: tl.constexpr = 2**-126
    row = tl.program_id(0).to(tl.int64) * places
    mass, norms, logs = mass + row, norms + row, logs + row
    sums, totals = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    tops = tl.full([BLOCK], -1e30, tl.float32)
    for first in range(0, places, BLOCK):
        place = first + tl.arange(0, BLOCK)
        inside = place < places
        sums += tl.load(mass + place, mask=inside, other=0.0)
        if PRIOR:
            logit = _prior(norms, place, inside, places, norm_weight, near, far, decay_power, LOG2_E)
            higher = tl.maximum(tops, logit)
            totals = totals * tl.exp2(tops - higher) + tl.where(inside, tl.exp2(logit - higher), 0.0)
            tops = higher
    scale = 1 / tl.maximum(tl.sum(sums, 0), TINY)
    top = tl.max(tops, 0)
    total = top + tl.log2(tl.maximum(tl.sum(totals * tl.exp2(tops - top), 0), TINY))
    weight = limit
    if PRIOR and FUSION:
        shares, distances = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
        for first in range(0, places, BLOCK):
            place = first + tl.arange(0, BLOCK)
            inside = place < places
            one = tl.load(mass + place, mask=inside, other=0.0) * scale
            logit = _prior(norms, place, inside, places, norm_weight, near, far, decay_power, LOG2_E)
            apart = one - tl.exp2(logit - total)
            shares += one * apart
            distances += apart * apart
        distance = tl.sum(distances, 0)
        weight = tl.where(distance > 0, tl.sum(shares, 0) / tl.maximum(distance, TINY), 0.0)
        weight = tl.minimum(tl.maximum(weight, 0.0), limit)
    for first in range(0, places, BLOCK):
        place = first + tl.arange(0, BLOCK)
        inside = place < places
        mixed = tl.load(mass + place, mask=inside, other=0.0) * scale
        if PRIOR:
            logit = _prior(norms, place, inside, places, norm_weight, near, far, decay_power, LOG2_E)
            prior = tl.exp2(logit - total)
            apart = prior - mixed
            mixed = tl.where(weight < 0.5, mixed + weight * apart, prior - (1 - weight) * apart)
        tl.store(logs + place, tl.log2(tl.maximum(mixed, TINY)) / LOG2_E, mask=inside)


@triton.jit(do_not_specialize=["places"])
def _contest(
    logs, out, places, window, sharpness, repulsion,
    HEADS: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr, EXCLUDE: tl.constexpr,
):  # fmt: skip
    """Some positions of one layer: what is lost to the window's greatest, and to other heads."""
    head, place = tl.arange(0, WIDE)[:, None], tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None]
    at = (tl.program_id(0).to(tl.int64) * HEADS + head) * places + place
    there = (head < HEADS) & (place < places)
    score = tl.load(logs + at, mask=there, other=0.0)
    score = 2 * score - greatest_around(score, logs + at, place, there, places, window)
    if EXCLUDE:
        logit = tl.where(head < HEADS, score * sharpness, -1e30)
        top = tl.max(logit, 0)
        total = top + tl.log2(tl.sum(tl.exp2(logit - top[None]), 0))
        score += repulsion * (logit - total[None])
    tl.store(out + at, score, mask=there)
