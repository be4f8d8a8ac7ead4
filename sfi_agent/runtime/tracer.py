"""Notes what a turn does step by step, for the observers that want details."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from sfi_agent.details import Mark, Memory, Step, StepsDecoded, Token, TurnMeasured, TurnOpened
from sfi_agent.runtime.layout import Layout
from sfi_agent.runtime.memory import Saw
from sfi_agent.runtime.remembered import Chosen
from sfi_agent.runtime.retold import chosen_again
from sfi_agent.runtime.sparse import Reranked
from sfi_agent.runtime.step import Work
from sfi_agent.runtime.strips import strip
from sfi_agent.runtime.text import TextStream

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from sfi_agent.runtime.turn import Turn

TOGETHER = 16
"""Steps that are told at once."""


class Untraced:
    """Notes nothing: nobody wants details.

    Attributes:
        saw: takes what a refresh chose, as :data:`sfi_agent.runtime.memory.Saw`.
    """

    saw: Saw | None = None

    def opened(self) -> None:
        """The turn begins."""

    def step(self, work: Work, seconds: float, read: float) -> None:
        """A decode step was committed, and read so many bytes."""

    def token(self, token: int, boundary: str) -> None:
        """The answer has one more token, and ``boundary``, if anything, calls for a slow step."""

    def verifying(self, draft: Sequence[int]) -> None:
        """The next tokens are what a dense pass over ``draft`` gives."""

    def refreshed(self, seconds: float, read: float) -> None:
        """A refresh is done."""

    def tell(self) -> None:
        """A step is over: tell what was noted, if it is much."""

    def finished(self) -> None:
        """The turn has ended: tell the rest, and what it cost."""


class Tracer(Untraced):
    """Notes what a turn does since it was last told.

    Args:
        turn: its events are told through it.
        tokenizer: of the model.
    """

    def __init__(self, turn: Turn, tokenizer: PreTrainedTokenizerBase) -> None:
        self._turn, self._tokenizer = turn, tokenizer
        self._text = TextStream(tokenizer, special=True)
        self._steps: list[Step] = []
        self._tokens: list[Token] = []
        self._memories: list[Memory] = []
        self._count = 0
        self._fast: bool | None = None
        self._draft: list[int] = []
        self._layout: Layout | None = None
        self._seen: dict[int, Tensor] = {}
        self.saw = self._saw

    def opened(self) -> None:
        text = TextStream(self._tokenizer, special=True)
        pieces = [text.push(token) for token in self._turn.prompt]
        pieces[-1] += text.flush()
        self._turn.tell(TurnOpened, policy=self._turn.policy.model_dump(mode="json"), prompt=tuple(pieces))

    def step(self, work: Work, seconds: float, read: float) -> None:
        kv = self._turn.row.kv
        self._steps.append(
            Step(
                number=self._count,
                fast=work.fast,
                position=kv.length - 1,
                tokens=len(work.tokens),
                seconds=seconds,
                read=read,
                dense=kv.dense_bytes(kv.length - 1, kv.length),
            )
        )
        self._fast = work.fast
        if work.fast:
            self._reranked()
        self._count += 1

    def token(self, token: int, boundary: str) -> None:
        text = self._text.push(token)
        mark, drafted = self._marked(token)
        self._tokens.append(
            Token(id=token, text=text, mark=mark, step=self._count - 1, boundary=boundary, drafted=drafted)
        )

    def verifying(self, draft: Sequence[int]) -> None:
        self._draft = list(draft)

    def _saw(self, layers: Sequence[int], layout: Layout, chosen: Tensor) -> None:
        self._layout = layout
        self._seen.update(zip(layers, chosen, strict=True))

    def refreshed(self, seconds: float, read: float) -> None:
        if self._seen and self._layout:
            length = self._turn.row.kv.length
            self._remember(self._seen, self._layout.sink, self._layout.tail, length, seconds, read)
        self._seen = {}

    def tell(self) -> None:
        if len(self._steps) >= TOGETHER:
            self._tell()

    def _tell(self) -> None:
        steps, tokens, memories = tuple(self._steps), tuple(self._tokens), tuple(self._memories)
        self._turn.tell(StepsDecoded, steps=steps, tokens=tokens, memories=memories)
        self._steps, self._tokens, self._memories = [], [], []

    def finished(self) -> None:
        if self._tokens and (rest := self._text.flush()):
            self._tokens[-1] = replace(self._tokens[-1], text=self._tokens[-1].text + rest)
        self._tell()
        result = vars(self._turn.result(None))
        self._turn.tell(TurnMeasured, **{name: result[name] for name in TurnMeasured.__annotations__})

    def _marked(self, token: int) -> tuple[Mark, str]:
        """Where a token comes from, and what a draft had in its place if it corrects one."""
        if self._draft:
            proposed = self._draft.pop(0)
            if proposed == token:
                return "accepted", ""
            self._draft = []
            return "corrected", str(self._tokenizer.decode([proposed]))
        if self._fast is None:
            return "prompt", ""
        return ("fast" if self._fast else "slow"), ""

    def _reranked(self) -> None:
        """Note what the fast step itself chose, if it did."""
        row = self._turn.row
        if row.memory is None:
            return
        found = {layer: kept for layer, kept in row.memory.layers.items() if isinstance(kept, Reranked)}
        chosen = {layer: kept.chosen[-1] for layer, kept in found.items() if kept.chosen is not None}
        if chosen:
            ranking = next(iter(found.values())).ranking
            self._remember(chosen, ranking.start, ranking.stop, row.kv.length, None, 0.0)
        elif isinstance(kept := row.memory.pages, Chosen) and (chosen := chosen_again(row)):
            self._remember(chosen, kept.sink, kept.tail, row.kv.length, None, 0.0)

    def _remember(
        self,
        chosen: dict[int, Tensor],
        sink: int,
        tail: int,
        length: int,
        seconds: float | None,
        read: float,
    ) -> None:
        shown: dict[str, Any] = strip(chosen, sink, tail, length)
        self._memories.append(
            Memory(step=self._count, sink=sink, tail=tail, length=length, seconds=seconds, read=read, **shown)
        )
