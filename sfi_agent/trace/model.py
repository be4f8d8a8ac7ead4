"""What a trace holds; JSON, with a version."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from sfi_agent.details import Memory, Step, Token

VERSION: Literal[1] = 1
"""Of the format. Fields may join without a new version: readers skip those they do not know."""


class TurnTrace(BaseModel):
    """A turn, as far as it came.

    Attributes:
        runtime: its name where several are watched; empty otherwise.
        session, turn, mode, prompt_tokens, reused_tokens: as in ``TurnStarted``.
        read: prompt tokens that are in the KV cache.
        policy, prompt: as in ``TurnOpened``.
        tokens, steps, memories: all there were, in order (see :mod:`sfi_agent.details`).
        finish_reason: as in ``TurnFinished``; empty while it runs.
        cost: the fields of ``TurnMeasured``; empty while it runs.
    """

    runtime: str = ""
    session: str
    turn: int
    mode: str = ""
    prompt_tokens: int = 0
    reused_tokens: int = 0
    read: int = 0
    policy: dict[str, Any] = Field(default_factory=dict)
    prompt: list[str] = Field(default_factory=list)
    tokens: list[Token] = Field(default_factory=list)
    steps: list[Step] = Field(default_factory=list)
    memories: list[Memory] = Field(default_factory=list)
    finish_reason: str = ""
    cost: dict[str, float] = Field(default_factory=dict)


class Trace(BaseModel):
    """Turns, the oldest first.

    Attributes:
        version: of the format.
        sfi_agent: version that recorded it.
        model: name of the model; empty where it is not known.
        left_out: earlier turns that were forgotten.
        turns: that are remembered.
    """

    version: Literal[1] = VERSION
    sfi_agent: str
    model: str = ""
    left_out: int = 0
    turns: list[TurnTrace] = Field(default_factory=list)
