"""Two questions and their answers: who found what was asked for, and whether two dialogues are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

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


def finding(number: int, dialogues: Mapping[str, Dialogue]) -> str:
    """Which modes' first answers have the number that was asked for; ``dense`` is among them."""
    right = {mode: str(number) in dialogue.answers[0].text for mode, dialogue in dialogues.items()}
    if all(right.values()):
        return f"the number, {number}, was found in every mode"
    if not right["dense"]:
        return (
            f"the number was {number}: full attention itself misread it, as a model this small does at times"
        )
    missed = " and ".join(mode for mode, found in right.items() if not found)
    return f"the number, {number}, was found in mode dense, and not in {missed}"


def verdict(runtime: Runtime, ours: Sequence[int], theirs: Sequence[int]) -> str:
    """Whether two sessions had the same tokens; where not, whether dense attention was in a tie there.

    Args:
        runtime: of both sessions.
        ours, theirs: tokens of the verified one and of the dense one, after the same questions.
    """
    from sfi_agent.evaluate.compare import measure_tie

    if list(ours) == list(theirs):
        return "verified equals dense: yes, token for token in both turns"
    same = common(ours, theirs)
    ours_there = [*ours, min(runtime.stop_tokens, default=0)][same]  # it may have ended there
    difference = measure_tie(runtime, theirs[:same], runtime.policy, same, ours_there)
    kind = "a tie within rounding" if difference.tie else "NOT a tie"
    return (
        f"verified equals dense: no, they part at token {same} of the conversation, {kind} "
        f"(dense attention's logits {difference.gap:.3g} apart, rounding {difference.rounding:.3g})"
    )


def common(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the common beginning."""
    pairs = zip(first, second, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
