"""The page of what ``import sfi_agent`` gives."""

from __future__ import annotations

from collections.abc import Iterator

import sfi_agent
from generating.classes import callable_parts, described, members
from generating.docstrings import page, prose, summary
from sfi_agent import Policy, Sampling, SFIError
from sfi_agent.observers import Observers
from sfi_agent.runtime.stats import Moves, SessionStats, Tier
from sfi_agent.store import SessionInfo
from sfi_agent.tools import Ask

ORDER = (
    "Runtime",
    "TurnStream",
    "Chunk",
    "TurnResult",
    "Policy",
    "Sampling",
    "Limits",
    "SessionStore",
    "Registry",
    "SFIError",
)
"""In which a reader meets the public names."""
BESIDE = (Observers, Ask, SessionInfo, SessionStats, Tier, Moves)
"""What the public names take and give beside each other."""
ELSEWHERE = {
    Policy: "Its settings have [a page of their own](settings.md#policy).",
    Sampling: "Its settings have [a page of their own](settings.md#sampling).",
    SFIError: "The errors have [a page of their own](errors.md).",
}
SHOWN = """[Keep sessions](../how-to/keep-sessions.md), [judge a policy](../how-to/judge-a-policy.md) and
[call tools](../how-to/call-tools.md#without-langchain) show them at work."""


def python() -> str:
    """Every public name of ``sfi_agent``, and what these take and give."""
    names = sorted(sfi_agent.__all__, key=lambda name: (*ORDER, name).index(name))  # a new one comes last
    kinds = [getattr(sfi_agent, name) for name in names]
    contents = [f"- [`{kind.__name__}`](#{kind.__name__.lower()}): {summary(kind)}" for kind in kinds]
    parts = [prose(sfi_agent), SHOWN, "\n".join(contents)]
    for kind in (*kinds, *BESIDE):
        parts += _elsewhere(kind) if kind in ELSEWHERE else described(kind)
    return page("Python", *parts)


def _elsewhere(kind: type) -> Iterator[str]:
    """A class whose attributes are on another page."""
    yield f"## `{kind.__name__}`"
    yield prose(kind)
    yield ELSEWHERE[kind]
    for name, member in members(kind):
        yield f"### `{kind.__name__}.{name}`"
        yield from callable_parts(member)
