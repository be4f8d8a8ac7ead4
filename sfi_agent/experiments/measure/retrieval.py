"""Kind ``retrieval``: does a policy find what dense attention finds?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, count
from statistics import fmean
from typing import ClassVar

from sfi_agent.evaluate.beside import DenseBeside
from sfi_agent.evaluate.retrieval import TASKS
from sfi_agent.evaluate.retrieval.score import Question, question, retrieval
from sfi_agent.evaluate.suite import SHORTEST
from sfi_agent.evaluate.tool_calls import request
from sfi_agent.evaluate.workloads import seeds_of
from sfi_agent.experiments.grid import Case
from sfi_agent.experiments.measure.base import Measurement, Reading
from sfi_agent.experiments.page import Page
from sfi_agent.progress import Progress
from sfi_agent.runtime.runtime import Runtime

TOOL_CALLS = "tool_calls"


@dataclass(frozen=True)
class Questions(Reading):
    """A task's questions by length of their contexts; ``tokens`` are all their prompts."""

    questions: dict[int, tuple[Question, ...]] = field(default_factory=dict)


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
    workloads: ClassVar[tuple[str, ...]] = (*TASKS, TOOL_CALLS)
    own_texts: ClassVar[bool] = False
    plots: ClassVar[tuple[str, ...]] = ("scores",)
    answers: ClassVar[bool] = True

    @classmethod
    def longest(cls, page: Page) -> int:
        return page.context

    def read(self, runtime: Runtime, page: Page, workload: str, text: str | None) -> Questions:
        seeds = seeds_of(page.seed, page.samples)
        found = {
            length: tuple(_question(runtime, workload, length, seed) for seed in seeds)
            for length in lengths(page.context)
        }
        tokens = tuple(chain.from_iterable(each.prompt for asked in found.values() for each in asked))
        return Questions(workload, tokens, page.context, page.seed, found)

    def prepare(self, runtime: Runtime, reading: Reading, on_progress: Progress) -> DenseBeside:
        """Dense attention answers when the first policy does: the two share each prompt's prefill."""
        return DenseBeside(runtime)

    def measure(
        self,
        runtime: Runtime,
        reading: Reading,
        case: Case,
        shared: DenseBeside,
        on_progress: Progress,
    ) -> RetrievalScores:
        assert isinstance(reading, Questions)
        name, total, done = reading.name, sum(map(len, reading.questions.values())), count()
        found = [
            retrieval(shared, name, length, asked, case.policy, lambda _: on_progress(next(done), total))
            for length, asked in reading.questions.items()
        ]
        return RetrievalScores(
            lengths=tuple(reading.questions),
            samples=found[0].samples,
            dense=tuple(each.dense for each in found),
            policy=tuple(each.policy for each in found),
            gained=sum(each.gained for each in found),
            lost=sum(each.lost for each in found),
            kv_read_fraction=fmean(each.kv_read_fraction for each in found),
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
    if task != TOOL_CALLS:
        return question(runtime, TASKS[task], length, seed=seed)
    call = request(runtime, length, seed)
    return Question(call.prompt, call.sampling, lambda output: call.judge(output).right)
