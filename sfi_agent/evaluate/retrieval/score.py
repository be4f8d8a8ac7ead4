"""Questions asked under a policy and under dense attention, and what their answers are worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from sfi_agent.evaluate.beside import DenseBeside
from sfi_agent.evaluate.retrieval.task import Task, sample
from sfi_agent.policy import Policy, Sampling
from sfi_agent.runtime.runtime import Runtime


@dataclass(frozen=True)
class Question:
    """One prompt, and what an answer to it is worth.

    Attributes:
        prompt: token ids.
        sampling: for the answer.
        score: share of what was asked for that stands in an answer.
    """

    prompt: tuple[int, ...]
    sampling: Sampling
    score: Callable[[str], float]


@dataclass(frozen=True)
class Retrieval:
    """Means over the questions of one task at one length.

    Attributes:
        task: its name.
        length: of the context, the answer included, tokens.
        samples: questions.
        dense, policy: share of the expected answers that were found.
        gained, lost: questions that the policy answered better than dense attention, and worse.
        kv_read_fraction: of the policy's turns.
    """

    task: str
    length: int
    samples: int
    dense: float
    policy: float
    gained: int
    lost: int
    kv_read_fraction: float


def question(runtime: Runtime, task: Task, length: int, *, seed: int = 0, chat: bool = False) -> Question:
    """A sample of a task, to be answered greedily; arguments as in :func:`sample`.

    Raises:
        PromptError: the task does not fit ``length``.
    """
    asked = sample(task, runtime, length, seed=seed, chat=chat)
    prompt = tuple(asked.encode(runtime, chat=chat))
    return Question(prompt, Sampling(max_new_tokens=asked.new_tokens), asked.score)


def retrieval(
    beside: DenseBeside,
    task: str,
    length: int,
    questions: Sequence[Question],
    policy: Policy,
    on_question: Callable[[int], None] | None = None,
) -> Retrieval:
    """Ask questions both ways, greedily.

    Args:
        beside: runs both.
        task: what the questions are called.
        length: of their contexts, tokens.
        questions: any number.
        policy: in its own mode.
        on_question: called before each answer, with how many came.

    Raises:
        PromptError: a prompt exceeds the model's window.
    """
    dense, ours, read = list[float](), list[float](), list[float]()
    for asked, pair in zip(questions, beside.ask_all(questions, policy, on_question), strict=True):
        dense.append(asked.score(pair.dense.text))
        ours.append(asked.score(pair.policy.text))
        read.append(pair.policy.kv_read_fraction)
    both = [*zip(dense, ours, strict=True)]
    return Retrieval(
        task=task,
        length=length,
        samples=len(questions),
        dense=fmean(dense),
        policy=fmean(ours),
        gained=sum(policy > full for full, policy in both),
        lost=sum(policy < full for full, policy in both),
        kv_read_fraction=fmean(read),
    )
