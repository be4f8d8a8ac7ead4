"""Everything this project measures of a policy's quality on one model, dense attention beside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Self, TypeVar

from sfi_agent.errors import PromptError, SettingError, UnknownNameError
from sfi_agent.evaluate.answers import Answer, answer
from sfi_agent.evaluate.beside import DenseBeside
from sfi_agent.evaluate.drafts import Drafts, drafts
from sfi_agent.evaluate.fidelity import Fidelity, fidelity
from sfi_agent.evaluate.retrieval import TASKS
from sfi_agent.evaluate.retrieval.score import Retrieval, question, retrieval
from sfi_agent.evaluate.tool_calls import ToolCalls, tool_calls
from sfi_agent.evaluate.workloads import WORKLOADS, seeds_of, workload
from sfi_agent.policy import Policy, Sampling
from sfi_agent.runtime.runtime import Runtime

T = TypeVar("T")

BY_WORKLOAD = ("fidelity", "answers", "drafts")
MEASURES = (*BY_WORKLOAD, "tool_calls", *TASKS)
"""What can be measured: on every workload, tool calls, and the retrieval tasks."""
RETRIEVAL = "retrieval"
MAX_DRAFT = 32
"""Tokens of a draft: enough that acceptance, not this limit, decides."""
SHORTEST, LONGEST = 1024, 8192
"""Tokens of the shortest retrieval context, and of the longest text elsewhere, unless asked for."""

OnStep = Callable[[str, int, int], None]
"""Called with what is measured next, how many steps are done, and how many there are."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        context: tokens read before anything is compared (retrieval has lengths of its own).
        decode: tokens then read step by step and compared, in each workload.
        answer: tokens that the model writes by itself, in each workload.
        lengths: of the retrieval contexts, answer included, tokens.
        samples: of each retrieval task at each length, and requests for a tool call.
    """

    context: int
    decode: int
    answer: int
    lengths: tuple[int, ...]
    samples: int

    @classmethod
    def standard(cls, window: int) -> Self:
        """About 8,000 tokens of each workload, and retrieval at powers of two up to the window."""
        lengths = tuple(SHORTEST << power for power in range(20) if SHORTEST << power <= window)
        decode = min(1024, window // 4)
        return cls(min(window, LONGEST) - decode, decode, decode, lengths, samples=8)

    @classmethod
    def quick(cls, window: int) -> Self:
        """Does it run, and is anything badly wrong?"""
        short = min(SHORTEST, window)
        return cls(short - 32, decode=32, answer=32, lengths=(short,), samples=1)

    def but(self, **values: Any) -> Self:
        """A copy with some sizes changed; None leaves a size as it is."""
        return replace(self, **{name: value for name, value in values.items() if value is not None})

    def check(self, window: int) -> None:
        """Raise SettingError if a size is not positive, PromptError if the window is too small for them."""
        if min(self.context, self.decode, self.answer, self.samples, *self.lengths) < 1:
            raise SettingError(f"sizes: each must be at least 1 (given {self})")
        longest = max([self.context + max(self.decode, self.answer), *self.lengths])
        if longest > window:
            raise PromptError(
                f"the suite would read {longest} tokens, but the model's window is {window}; "
                "lower the context, the tokens decoded, or the lengths"
            )


@dataclass(frozen=True)
class SuiteResult:
    """What a policy costs on one model; what was not asked for is empty or None.

    Attributes:
        model, dtype, device: what ran.
        policy: its settings.
        sizes: how much was measured; ``seed`` of its texts.
        fidelity, answers, drafts: by workload.
        retrieval: one entry a task and length.
        tool_calls: calls asked for.
        seconds: all of it took.
    """

    model: str
    dtype: str
    device: str
    policy: dict[str, Any]
    sizes: Sizes
    seed: int
    fidelity: dict[str, Fidelity]
    answers: dict[str, Answer]
    drafts: dict[str, Drafts]
    retrieval: tuple[Retrieval, ...]
    tool_calls: ToolCalls | None
    seconds: float


class Suite:
    """The measurements on one model; dense answers are kept, so that a second policy costs less.

    Args:
        runtime: the model.
        sizes: how much to measure; default :meth:`Sizes.standard`.
        tasks: of ``MEASURES``, or ``retrieval`` for all such tasks; default all.
        seed: of the texts.

    Raises:
        UnknownNameError: there is no such task.
        SettingError: a size is not positive.
        PromptError: the sizes exceed the model's window.
    """

    def __init__(
        self,
        runtime: Runtime,
        sizes: Sizes | None = None,
        tasks: Collection[str] = MEASURES,
        *,
        seed: int = 0,
    ) -> None:
        self.runtime, self.seed = runtime, seed
        self.sizes = sizes or Sizes.standard(runtime.window)
        self.sizes.check(runtime.window)
        self.tasks = known_tasks(tasks)
        self._beside = DenseBeside(runtime)

    def run(self, policy: Policy, on_step: OnStep | None = None) -> SuiteResult:
        """Measure a policy in its own mode; fidelity is that of its fast steps, and drafts are verified's."""
        began, next_is = time.perf_counter(), self._announcer(on_step)
        model = self.runtime.model
        return SuiteResult(
            model=self.runtime.name,
            dtype=str(model.dtype).removeprefix("torch."),
            device=str(model.device),
            policy=policy.model_dump(),
            sizes=self.sizes,
            seed=self.seed,
            fidelity=self._on_workloads("fidelity", lambda name: self._fidelity(name, policy), next_is),
            answers=self._on_workloads("answers", lambda name: self._answer(name, policy), next_is),
            drafts=self._on_workloads("drafts", lambda name: self._drafts(name, policy), next_is),
            retrieval=tuple(self._retrieval(policy, next_is)),
            tool_calls=self._tool_calls(policy, next_is),
            seconds=time.perf_counter() - began,
        )

    @property
    def steps(self) -> int:
        """How often ``on_step`` is called."""
        tasks = sum(task in TASKS for task in self.tasks) * len(self.sizes.lengths)
        samples = self.sizes.samples * (tasks + ("tool_calls" in self.tasks))
        return samples + len(WORKLOADS) * sum(measure in self.tasks for measure in BY_WORKLOAD)

    def _announcer(self, on_step: OnStep | None) -> Callable[[str], None]:
        done, total = count(), self.steps

        def next_is(what: str) -> None:
            if on_step:
                on_step(what, next(done), total)

        return next_is

    def _on_workloads(
        self, measure: str, run: Callable[[str], T], next_is: Callable[[str], None]
    ) -> dict[str, T]:
        found = dict[str, T]()
        for name in WORKLOADS if measure in self.tasks else ():
            next_is(f"{measure} on {name}")
            found[name] = run(name)
        return found

    def _fidelity(self, name: str, policy: Policy) -> Fidelity:
        context = self.sizes.context
        tokens = workload(name, self.runtime, context + self.sizes.decode, seed=self.seed)
        return fidelity(self.runtime, tokens, context, policy)

    def _answer(self, name: str, policy: Policy) -> Answer:
        context, tokens = self.sizes.context, self.sizes.answer
        return answer(self._beside, name, policy, context=context, tokens=tokens, seed=self.seed)

    def _drafts(self, name: str, policy: Policy) -> Drafts:
        prompt = workload(name, self.runtime, self.sizes.context, seed=self.seed)
        verified = policy.but(mode="verified", adaptive_draft=False, max_draft=MAX_DRAFT)
        sampling = Sampling(max_new_tokens=self.sizes.answer, ignore_eos=True)
        return drafts(self._beside, prompt, verified, sampling)

    def _retrieval(self, policy: Policy, next_is: Callable[[str], None]) -> Iterator[Retrieval]:
        for name in (name for name in self.tasks if name in TASKS):
            for length in self.sizes.lengths:
                yield self._retrieved(name, length, policy, next_is)

    def _retrieved(self, name: str, length: int, policy: Policy, next_is: Callable[[str], None]) -> Retrieval:
        seeds = seeds_of(self.seed, self.sizes.samples)
        asked = [question(self.runtime, TASKS[name], length, seed=seed) for seed in seeds]

        def on_question(done: int) -> None:
            next_is(f"{name} at {length}, sample {done + 1}")

        return retrieval(self._beside, name, length, asked, policy, on_question)

    def _tool_calls(self, policy: Policy, next_is: Callable[[str], None]) -> ToolCalls | None:
        if "tool_calls" not in self.tasks:
            return None
        return tool_calls(
            self._beside,
            policy,
            context=self.sizes.context,
            requests=self.sizes.samples,
            seed=self.seed,
            on_request=lambda done: next_is(f"tool call {done + 1}"),
        )


def known_tasks(names: Collection[str]) -> tuple[str, ...]:
    """The names in the order of ``MEASURES``; ``retrieval`` stands for all of its tasks.

    Raises:
        UnknownNameError: one of them is not there.
        SettingError: there is none.
    """
    if not names:
        raise SettingError(f"tasks: name at least one of {', '.join((*MEASURES, RETRIEVAL))}")
    for name in names:
        if name not in (*MEASURES, RETRIEVAL):
            raise UnknownNameError("task", name, (*MEASURES, RETRIEVAL))
    return tuple(name for name in MEASURES if name in names or (name in TASKS and RETRIEVAL in names))
