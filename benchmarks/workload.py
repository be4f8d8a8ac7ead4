"""What the benchmarks of speed read: the workload ``prose``, which every machine has."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sfi_agent import Runtime

MODEL = "smollm2-135m"


def long_prompt(runtime: Runtime, tokens: int) -> list[int]:
    """Exactly ``tokens`` tokens from the beginning of the prose."""
    from sfi_agent.evaluate.workloads import workload

    return workload("prose", runtime, tokens)
