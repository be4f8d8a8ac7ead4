"""What verified mode keeps of its drafts, on text that the model writes by itself."""

from __future__ import annotations

from dataclasses import dataclass

from sfi_agent.evaluate.beside import DenseBeside
from sfi_agent.evaluate.compare import Difference, measure_tie
from sfi_agent.evaluate.workloads import workload
from sfi_agent.policy import Policy, Sampling

MAX_DRAFT = 32
"""Long enough that acceptance, not this limit, decides."""


@dataclass(frozen=True)
class Draft:
    """One text continued in verified mode, with drafts that do not adapt.

    Attributes:
        tokens: generated.
        accepted: drafted tokens kept by each dense pass, on the mean. A draft ends at a boundary, so
            that where a text has many, they bound it.
        acceptance: share of all drafted tokens that were kept.
        same: whether the answer is dense attention's.
        difference: where it first leaves it, and whether that is rounding; None if ``same``.
        kv_read_fraction: of the turn.
    """

    tokens: int
    accepted: float
    acceptance: float
    same: bool
    difference: Difference | None
    kv_read_fraction: float


def draft(
    beside: DenseBeside, name: str, policy: Policy, *, context: int, tokens: int, seed: int = 0
) -> Draft:
    """Continue a workload by ``tokens`` tokens in verified mode; arguments as in :func:`answer`.

    Args:
        policy: its selector, detectors and budget draft; drafts have ``MAX_DRAFT`` tokens unless a
            boundary ends them.
    """
    runtime = beside.runtime
    prompt = workload(name, runtime, context, seed=seed)
    verified = policy.but(mode="verified", adaptive_draft=False, max_draft=MAX_DRAFT)
    pair = beside.ask(prompt, verified, Sampling(max_new_tokens=tokens, ignore_eos=True))
    turn, at = pair.policy, pair.divergence
    return Draft(
        tokens=turn.completion_tokens,
        accepted=turn.accepted / max(turn.slow_steps, 1),
        acceptance=turn.accepted / max(turn.drafted, 1),
        same=at is None,
        difference=None
        if at is None
        else measure_tie(runtime, [*prompt, *pair.dense.token_ids[:at]], verified, at),
        kv_read_fraction=turn.kv_read_fraction,
    )
