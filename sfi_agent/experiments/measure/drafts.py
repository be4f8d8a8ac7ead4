"""Kind ``drafts``: what verified mode costs and gives on an answer to a workload's context."""

from __future__ import annotations

from typing import ClassVar

from sfi_agent.evaluate.beside import DenseBeside
from sfi_agent.evaluate.drafts import Drafts, drafts
from sfi_agent.experiments.grid import Case
from sfi_agent.experiments.measure.base import Measurement, Reading
from sfi_agent.policy import Sampling
from sfi_agent.progress import Progress
from sfi_agent.runtime.runtime import Runtime


class DraftsMeasurement(Measurement[DenseBeside, Drafts]):
    """The answer has ``decode`` tokens whatever the model's own end; the policy's mode is overridden."""

    kind: ClassVar[str] = "drafts"
    version: ClassVar[int] = 1
    result: ClassVar[type[Drafts]] = Drafts
    plots: ClassVar[tuple[str, ...]] = ("accepted", "speed")
    samples: ClassVar[bool] = True
    answers: ClassVar[bool] = True

    def prepare(self, runtime: Runtime, reading: Reading, on_progress: Progress) -> DenseBeside:
        """Dense attention answers after the first policy at each temperature."""
        return DenseBeside(runtime)

    def measure(
        self, runtime: Runtime, reading: Reading, case: Case, shared: DenseBeside, on_progress: Progress
    ) -> Drafts:
        sampling = Sampling(
            max_new_tokens=reading.decode, ignore_eos=True, temperature=case.temperature, seed=reading.seed
        )
        prompt = reading.tokens[: reading.context]
        return drafts(shared, prompt, case.policy, sampling, lambda done: on_progress(done, reading.decode))
