"""Kind ``retrieval``: does a policy find what dense attention finds?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from statistics import fmean
from typing import ClassVar

from sfi_agent.errors import UnknownNameError
from sfi_agent.evaluate.beside import DenseBeside
from sfi_agent.evaluate.retrieval import TASKS
from sfi_agent.evaluate.retrieval.task import sample
from sfi_agent.evaluate.suite import SHORTEST
from sfi_agent.evaluate.tool_calls import request
from sfi_agent.experiments.measure.base import Measurement, Progress, Reading
from sfi_agent.experiments.page import Page
from sfi_agent.policy import Policy, Sampling
from sfi_agent.runtime.runtime import Runtime

TOOL_CALLS = "tool_calls"


@dataclass(frozen=True)
class Question:
    """One prompt, and what an answer to it is worth.

    Attributes:
        length: tokens of the context, the answer included.
        prompt: token ids.
        sampling: for the answer.
        score: share of what was asked for that stands in an answer.
    """

    length: int
    prompt: tuple[int, ...]
    sampling: Sampling
    score: Callable[[str], float]


@dataclass(frozen=True)
class Questions(Reading):
    """A task's questions; ``tokens`` are all their prompts."""

    questions: tuple[Question, ...] = ()


@dataclass(frozen=True)
class RetrievalScores:
    """Scores of one policy on one task, means over the samples.

    Attributes:
        lengths: of the contexts, tokens.
        samples: questions at each length.
        dense, policy: share of the expected answers found, at each length.
        gained, lost: questions that the policy answered better than dense attention, and worse.
        kv_read_fraction: of the policy's turns, mean over the questions.
    """

    lengths: tuple[int, ...]
    samples: int
    dense: tuple[float, ...]
    policy: tuple[float, ...]
    gained: int
    lost: int
    kv_read_fraction: float

    @property
    def dense_score(self) -> float:
        """Mean over the lengths."""
        return fmean(self.dense)

    @property
    def score(self) -> float:
        """Mean over the lengths."""
        return fmean(self.policy)


class RetrievalMeasurement(Measurement[DenseBeside, RetrievalScores]):
    """Generated tasks, answered greedily; ``tool_calls`` asks for the very call that was requested.

    Lengths are the powers of two from 1,024 up to the page's ``context``, and that itself.
    """

    kind: ClassVar[str] = "retrieval"
    version: ClassVar[int] = 1
    result: ClassVar[type[RetrievalScores]] = RetrievalScores
    plots: ClassVar[tuple[str, ...]] = ("scores",)

    @classmethod
    def longest(cls, page: Page) -> int:
        return page.context

    def read(self, runtime: Runtime, page: Page, workload: str, text: str | None) -> Questions:
        if workload not in (*TASKS, TOOL_CALLS):
            raise UnknownNameError("retrieval task", workload, (*TASKS, TOOL_CALLS))
        seeds = range(page.seed, page.seed + page.samples)
        found = tuple(
            _question(runtime, workload, length, seed) for length in lengths(page.context) for seed in seeds
        )
        tokens = tuple(chain.from_iterable(question.prompt for question in found))
        return Questions(workload, tokens, page.context, found)

    def prepare(self, runtime: Runtime, reading: Reading, on_progress: Progress) -> DenseBeside:
        """Dense attention answers when the first policy does: the two share each prompt's prefill."""
        return DenseBeside(runtime)

    def measure(
        self,
        runtime: Runtime,
        reading: Reading,
        policy: Policy,
        shared: DenseBeside,
        on_progress: Progress,
    ) -> RetrievalScores:
        assert isinstance(reading, Questions)
        scores: dict[int, list[tuple[float, float]]] = {}
        read = list[float]()
        for done, asked in enumerate(reading.questions):
            on_progress(done, len(reading.questions))
            pair = shared.ask(asked.prompt, policy, asked.sampling)
            found = asked.score(pair.dense.text), asked.score(pair.policy.text)
            scores.setdefault(asked.length, []).append(found)
            read.append(pair.policy.kv_read_fraction)
        every = list(chain.from_iterable(scores.values()))
        return RetrievalScores(
            lengths=tuple(scores),
            samples=len(reading.questions) // len(scores),
            dense=tuple(fmean(dense for dense, _ in pairs) for pairs in scores.values()),
            policy=tuple(fmean(ours for _, ours in pairs) for pairs in scores.values()),
            gained=sum(ours > dense for dense, ours in every),
            lost=sum(ours < dense for dense, ours in every),
            kv_read_fraction=fmean(read),
        )


def lengths(longest: int) -> tuple[int, ...]:
    """Powers of two from the suite's shortest, below ``longest``, and ``longest``."""
    return (*_powers(longest), longest)


def _powers(longest: int) -> Iterator[int]:
    length = SHORTEST
    while length < longest:
        yield length
        length *= 2


def _question(runtime: Runtime, task: str, length: int, seed: int) -> Question:
    if task == TOOL_CALLS:
        call = request(runtime, length, seed)
        sampling = Sampling(max_new_tokens=call.new_tokens, stop=("\n",))
        return Question(length, call.prompt, sampling, lambda output: call.judge(output).right)
    asked = sample(TASKS[task], runtime, length, seed=seed)
    sampling = Sampling(max_new_tokens=asked.new_tokens)
    return Question(length, tuple(asked.encode(runtime)), sampling, asked.score)
