"""The selector of Slow-Fast Inference (arXiv 2603.12038), its steps as functions of tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sfi_agent.contracts import Evidence, Selection, Selector, View, sliding_max, top_positions

SMALLEST_DISTANCE = 1e-6
"""Least ``1 - x`` and least key norm whose logarithm is taken."""
SMALLEST_PROBABILITY = torch.finfo(torch.float32).tiny
"""Least probability whose logarithm is taken: an underflowed softmax must not become -inf."""


@dataclass
class PaperSelector(Selector):
    """Slow-Fast Inference's selector (arXiv 2603.12038): evidence, prior, fusion, suppression, exclusivity.

    Reads logits ``[N, H_kv, R, P]`` and key norms ``[N, H_kv, P]``; selects ``[N, H_kv, count]``.

    Attributes:
        captured: latest query tokens to capture as evidence.
        power: exponent of the power mean over the R rows (1: the plain mean).
        prior: mix in the prior; without it the evidence alone is scored.
        norm_weight: weight of minus the logarithm of the key norm in the prior.
        position_weight: weight of the position term ``damping ln(1 - x) - decay x ^ decay_power``.
        decay, decay_power, damping: shape of the position term.
        fusion: lambda in closed form; without it lambda is always at its limit.
        lambda_one: upper limit of lambda with one captured token.
        lambda_several: upper limit of lambda with several.
        suppression: soft non-maximum suppression among neighbours.
        window: positions among which one neighbour suppresses the others.
        exclusivity: push KV heads towards different positions (never at two heads or fewer).
        temperature: of the softmax over KV heads.
        repulsion: weight of that softmax's logarithm.
    """

    reads_norms: ClassVar[bool] = True

    captured: int = 4
    power: float = 0.5
    prior: bool = True
    norm_weight: float = 0.5
    position_weight: float = 0.7
    decay: float = 0.568
    decay_power: float = 1.8
    damping: float = 0.4
    fusion: bool = True
    lambda_one: float = 0.35
    lambda_several: float = 0.25
    suppression: bool = True
    window: int = 32
    exclusivity: bool = True
    temperature: float = 2.0
    repulsion: float = 0.85

    def __post_init__(self) -> None:
        for name in ("captured", "window"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1 (given {getattr(self, name)})")
        for name in ("power", "decay_power", "temperature"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be a number above 0 (given {getattr(self, name)})")
        for name in ("norm_weight", "position_weight", "decay", "damping", "repulsion"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be a number from 0 on (given {getattr(self, name)})")
        for name in ("lambda_one", "lambda_several"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1] (given {getattr(self, name)})")

    def rows_wanted(self) -> int:
        return self.captured

    def refresh(self, evidence: Evidence, view: View) -> Selection:
        candidates = view.stop - view.start
        if not 0 < view.count < candidates:
            flat = torch.zeros(len(view.layers), *view.keys[0].shape[:2], device=view.keys[0].device)
            return top_positions(flat, min(view.count, candidates), view.start)
        return top_positions(self.scores(evidence, view), view.count, view.start)

    def scores(self, evidence: Evidence, view: View) -> Tensor:
        """``[N, H_kv, P]`` float32, finite: what the top is taken of."""
        mass = evidence.mass(self.power)
        found: Tensor = torch.ops.sfi_plugins.paper_scores(
            mass,
            view.key_norms if self.prior else None,
            self.norm_weight,
            self.position_weight,
            self.decay,
            self.decay_power,
            self.damping,
            self.lambda_one if evidence.captured == 1 else self.lambda_several,
            self.fusion,
            self.window if self.suppression else 1,
            self.temperature,
            self.repulsion if self.exclusivity and mass.shape[1] > 2 else 0.0,
        )
        return found


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
    """All steps after the power mean's root, one after another.

    Args:
        mass: ``[N, H_kv, P]`` float32, of any sum.
        key_norms: ``[N, H_kv, P]`` float32; None: there is no prior.
        norm_weight, position_weight, decay, decay_power, damping: of the prior, as the selector's.
        limit: of lambda.
        fusion: as the selector's.
        window: of the suppression; 1: none.
        temperature: of the exclusivity.
        repulsion: of the exclusivity; 0: none.

    Returns:
        ``[N, H_kv, P]`` float32.
    """
    mass = normalised(mass)
    if key_norms is not None:
        x = torch.linspace(0, 1, mass.shape[-1], device=mass.device)
        position = position_weight * position_term(x, decay, decay_power, damping)
        prior = norm_prior(key_norms, norm_weight, position)
        weight = mixture_weight(mass, prior, limit) if fusion else torch.full_like(mass[..., :1], limit)
        mass = torch.lerp(mass, prior, weight)
    scores = mass.clamp_min(SMALLEST_PROBABILITY).log()
    if window > 1:
        scores = suppress(scores, window)
    return exclude(scores, temperature, repulsion) if repulsion else scores


# An operator, so that devices may have their own.
torch.library.define("sfi_plugins::paper_scores", torch.library.infer_schema(paper_scores, mutates_args=()))
torch.library.impl("sfi_plugins::paper_scores", "default", paper_scores)


def power_mean(evidence: Evidence, power: float) -> Tensor:
    """Step 1. ``[N, H_kv, P]``: power mean over the rows, summing to 1 over P."""
    return normalised(evidence.mass(power))


def normalised(mass: Tensor) -> Tensor:
    """``[N, H_kv, P]``, summing to 1 over P."""
    return mass / mass.sum(-1, keepdim=True).clamp_min(SMALLEST_PROBABILITY)


def position_term(x: Tensor, decay: float, decay_power: float, damping: float) -> Tensor:
    """Step 2. ``[P]`` places x, 0 oldest to 1 latest, to ``damping ln(1 - x) - decay x ^ decay_power``."""
    return damping * (1 - x).clamp_min(SMALLEST_DISTANCE).log() - decay * x.pow(decay_power)


def norm_prior(key_norms: Tensor, norm_weight: float, position: Tensor) -> Tensor:
    """Step 2. ``[N, H_kv, P]`` key norms and a ``[P]`` term to the prior ``[N, H_kv, P]``, summing to 1."""
    return (position - norm_weight * key_norms.clamp_min(SMALLEST_DISTANCE).log()).softmax(-1)


def mixture_weight(mass: Tensor, prior: Tensor, limit: float) -> Tensor:
    """Step 3. ``[N, H_kv, 1]``: the closed-form lambda, within ``[0, limit]``; 0 if mass is the prior."""
    squares, cross = (mass * mass).sum(-1, keepdim=True), (mass * prior).sum(-1, keepdim=True)
    # The denominator of the closed form, written so that rounding cannot make it negative.
    distance = (mass - prior).square().sum(-1, keepdim=True)
    weight = (squares - cross) / distance.clamp_min(SMALLEST_PROBABILITY)
    return torch.where(distance > 0, weight, 0).clamp(0, limit)


def suppress(scores: Tensor, window: int) -> Tensor:
    """Step 4. ``[N, H_kv, P]`` logs: each loses its distance to the greatest of the window around it.

    The window reaches ``window // 2`` positions back and ``(window - 1) // 2`` ahead.
    """
    return 2 * scores - sliding_max(scores, window)


def exclude(scores: Tensor, temperature: float, repulsion: float) -> Tensor:
    """Step 5. ``[N, H_kv, P]`` logs: adds ``repulsion`` times the log-softmax over the KV heads."""
    return scores + repulsion * (scores / temperature).log_softmax(1)
