"""Policies by need; ``docs/experiments/frontier.md`` and ``verified.md`` hold the measurements."""

from __future__ import annotations

from sfi_agent.policy import Policy


def balanced() -> Policy:
    """The most agreement for the bytes read: memory chosen anew each step from two bits a key element."""
    return Policy()


def exact() -> Policy:
    """Full attention's own output: drafts chosen as in ``balanced``, each checked by a dense pass."""
    return Policy.of(mode="verified")


def fast() -> Policy:
    """The cheapest fast steps: memory chosen at slow steps only, no index to read; for CPUs and easy text."""
    return Policy.of(
        selector="snapkv", boundaries=("punctuation", "tool_call"), max_interval=64, recent=256, max_draft=16
    )
