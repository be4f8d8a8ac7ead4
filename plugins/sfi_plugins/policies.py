"""Policies by need; ``docs/experiments/frontier.md`` and ``verified.md`` hold the measurements."""

from __future__ import annotations

from sfi_agent.policy import Policy


def fast() -> Policy:
    """The cheapest fast steps: memory chosen at slow steps only, no index to read."""
    return Policy.of(mode="sfi", selector="snapkv", budget=0.125)


def balanced() -> Policy:
    """The most agreement for the bytes read: memory chosen anew each step from two bits a key element."""
    return Policy.of(
        mode="sfi",
        selector="index",
        budget=0.125,
        boundaries=("tool_call",),
        max_interval=128,
        recent=64,
    )


def exact() -> Policy:
    """Full attention's own output: drafts chosen as in ``balanced``, each checked by a dense pass."""
    return balanced().but(mode="verified", max_draft=32)
