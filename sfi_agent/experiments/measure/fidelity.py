"""Kind ``fidelity``: how closely a policy follows dense attention on a given text."""

from __future__ import annotations

from typing import ClassVar

from sfi_agent.evaluate.fidelity import Fidelity, Reference, fidelity
from sfi_agent.experiments.grid import Case
from sfi_agent.experiments.measure.base import Measurement, Reading
from sfi_agent.progress import Progress
from sfi_agent.runtime.runtime import Runtime


class FidelityMeasurement(Measurement[Reference, Fidelity]):
    """Teacher-forced, in ``sfi`` mode, after a context that was read densely."""

    kind: ClassVar[str] = "fidelity"
    version: ClassVar[int] = 2
    result: ClassVar[type[Fidelity]] = Fidelity
    plots: ClassVar[tuple[str, ...]] = ("frontier", "slow-rate")
    axes: ClassVar[dict[str, str]] = {"kv_read_fraction": "KV read", "slow_rate": "slow steps"}

    def prepare(self, runtime: Runtime, reading: Reading, on_progress: Progress) -> Reference:
        """What dense attention makes of the text."""
        on_progress(0, len(reading.tokens))
        return Reference.read(runtime, reading.tokens, reading.context)

    def measure(
        self, runtime: Runtime, reading: Reading, case: Case, shared: Reference, on_progress: Progress
    ) -> Fidelity:
        return fidelity(runtime, reading.tokens, reading.context, case.policy, on_progress, reference=shared)
