"""A retrieval task's score under a policy and under dense attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

from sfi_agent.evaluate.beside import DenseBeside
from sfi_agent.evaluate.retrieval.task import Task, sample
from sfi_agent.policy import Policy, Sampling


@dataclass(frozen=True)
class Retrieval:
    """Means over the samples of one task at one length.

    Attributes:
        task: its name.
        length: of the context, the answer included, tokens.
        samples: prompts.
        dense, policy: share of the expected answers that were found.
        kv_read_fraction: of the policy's turns.
    """

    task: str
    length: int
    samples: int
    dense: float
    policy: float
    kv_read_fraction: float


def retrieval(
    beside: DenseBeside,
    task: Task,
    policy: Policy,
    *,
    length: int,
    samples: int,
    seed: int = 0,
    chat: bool = False,
    on_sample: Callable[[str], None] | None = None,
) -> Retrieval:
    """Ask a task's questions both ways, greedily.

    Args:
        beside: runs both.
        task: of ``TASKS``, or another.
        policy: in its own mode.
        length: tokens of context and answer.
        samples: how many, with the seeds from ``seed`` on.
        seed: of the first.
        chat: through the model's chat template instead of as text to be continued.
        on_sample: called before each sample, with a line that names it.

    Raises:
        PromptError: the task does not fit ``length``, or that exceeds the model's window.
    """
    scores: list[tuple[float, float, float]] = []
    for index in range(samples):
        if on_sample:
            on_sample(f"{task.name} at {length}, sample {index + 1}")
        asked = sample(task, beside.runtime, length, seed=seed + index, chat=chat)
        prompt = asked.encode(beside.runtime, chat=chat)
        pair = beside.ask(prompt, policy, Sampling(max_new_tokens=asked.new_tokens))
        found = asked.score(pair.dense.text), asked.score(pair.policy.text)
        scores.append((*found, pair.policy.kv_read_fraction))
    dense, ours, read = map(fmean, zip(*scores, strict=True))
    return Retrieval(task.name, length, samples, dense, ours, read)
