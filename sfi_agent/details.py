"""Events that tell what a turn decodes, step by step, and hold its text.

They cost work to make, so a runtime makes them only where a plugin wants them, and only such plugins hear
them: those whose object has ``wants_details = True``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from sfi_agent.events import Event

Mark = Literal["prompt", "fast", "slow", "accepted", "corrected"]


@dataclass(frozen=True, kw_only=True)
class Detail(Event):
    """Base of every such event."""


@dataclass(frozen=True, kw_only=True)
class TurnOpened(Detail):
    """What a turn begins with; told after ``TurnStarted``.

    Attributes:
        policy: the turn's own, every setting.
        prompt: the text that each of its tokens completed; together they are the prompt.
    """

    policy: dict[str, Any]
    prompt: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Token:
    """A token of the answer.

    Attributes:
        id: in the vocabulary.
        text: that it completed; empty where a character goes on in the next token.
        mark: where it comes from: the reading of the prompt, a fast step, a slow step, a draft that the
            slow step accepted, or a slow step that corrected the draft.
        step: number in the turn of the step that gave it; -1: the reading of the prompt did.
        boundary: what called for a slow step after it: detectors, or ``max_interval``; empty if nothing.
        drafted: the text that the draft had in its place, of a corrected one.
    """

    id: int
    text: str
    mark: Mark
    step: int
    boundary: str = ""
    drafted: str = ""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A decode step.

    Attributes:
        number: in the turn, from 0.
        fast: whether it attended to the sparse memory.
        position: of the last token that it read.
        tokens: that it read.
        seconds: of the model call, which other turns may share.
        read: KV and index bytes.
        dense: KV bytes of one dense step there.
    """

    number: int
    fast: bool
    position: int
    tokens: int
    seconds: float
    read: float
    dense: int


@dataclass(frozen=True, kw_only=True)
class Memory:
    """The positions of a sparse memory, coarsely: shares of bins, by groups of layers and of KV heads.

    Attributes:
        step: the first step that read it.
        sink: first positions kept; ``tail``: where recent begins; ``length``: tokens in the context.
        chosen: positions chosen between the two, by an average head.
        seconds: that choosing took, where a slow step's refresh chose; None: the step itself did.
        read: KV bytes that the refresh read.
        width: positions of a bin, a power of two.
        layers: names of the groups of layers, ``0-3`` say; ``heads``: of those of KV heads.
        levels: Base64 of zlib-compressed bytes ``[layers, heads, bins]``: 0 (none held) to 15 (all).
    """

    step: int
    sink: int
    tail: int
    length: int
    chosen: float
    seconds: float | None
    read: float
    width: int
    layers: tuple[str, ...]
    heads: tuple[str, ...]
    levels: str


@dataclass(frozen=True, kw_only=True)
class StepsDecoded(Detail):
    """Some steps have run; told a few times a second, and at the end of the turn.

    Attributes:
        steps: since the last such event; ``tokens`` and ``memories`` likewise.
    """

    steps: tuple[Step, ...] = ()
    tokens: tuple[Token, ...] = ()
    memories: tuple[Memory, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TurnMeasured(Detail):
    """What the turn cost, as in ``TurnResult``; told after ``TurnFinished``.

    Attributes:
        drafted: tokens that fast steps proposed in verified mode; ``accepted``: those kept.
        kv_read_fraction: KV bytes that decode steps and refreshes read, over what dense would read.
        prefill_seconds: model time spent on the prompt.
        first_token_seconds: from admission to the first token.
        decode_tokens_per_second: tokens after the first over the engine's time for them.
    """

    drafted: int
    accepted: int
    kv_read_fraction: float
    prefill_seconds: float
    first_token_seconds: float
    decode_tokens_per_second: float
