"""Two questions and their answers, and whether two such dialogues are the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from langchain_sfi.messages import to_chat

if TYPE_CHECKING:
    from sfi_agent import Runtime


@dataclass(frozen=True)
class Dialogue:
    """Questions and answers in turn.

    Attributes:
        questions: what was asked, the document before the first.
        answers: what came back, with LangChain's usage and response metadata.
    """

    questions: tuple[str, ...]
    answers: tuple[AIMessage, ...] = ()

    @property
    def prompt(self) -> list[BaseMessage]:
        """The messages that ask the first question without an answer."""
        told: list[BaseMessage] = []
        for question, answer in zip(self.questions, self.answers, strict=False):
            told += [HumanMessage(question), answer]
        return [*told, HumanMessage(self.questions[len(self.answers)])]

    def answered(self, answer: AIMessage) -> Dialogue:
        """The dialogue one answer further."""
        return Dialogue(self.questions, (*self.answers, answer))


def verdict(runtime: Runtime, verified: Dialogue, dense: Dialogue) -> str:
    """Whether verified mode answered as dense attention does; where not, whether it was a tie."""
    for turn, (ours, theirs) in enumerate(zip(verified.answers, dense.answers, strict=True)):
        if ours.text != theirs.text:
            before = Dialogue(dense.questions, dense.answers[:turn])
            return _difference(runtime, before, ours.text, theirs.text)
    return "verified equals dense: yes, in both turns"


def _difference(runtime: Runtime, before: Dialogue, ours: str, theirs: str) -> str:
    from sfi_agent.evaluate.compare import measure_tie

    verified, dense = (runtime.encode(text, raw=True) if text else [] for text in (ours, theirs))
    same = _common(verified, dense)
    context = [*runtime.encode(to_chat(before.prompt)), *dense[:same]]
    difference = measure_tie(runtime, context, runtime.policy, same)
    kind = "a tie within rounding" if difference.tie else "NOT a tie"
    return (
        f"verified equals dense: no, turn {len(before.answers) + 1} differs from token {same} on, {kind} "
        f"(dense attention's best two logits {difference.gap:.3g} apart, rounding {difference.rounding:.3g})"
    )


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the common beginning."""
    pairs = zip(first, second, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
