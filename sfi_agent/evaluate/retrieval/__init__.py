"""Retrieval tasks, generated in the manner of RULER (arXiv 2404.06654): one small file a task."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sfi_agent.evaluate.retrieval import (
    aggregation,
    multi_key,
    multi_needle,
    multi_value,
    single_needle,
    variable_tracking,
)
from sfi_agent.evaluate.retrieval.task import Sample, Task, sample

__all__ = ["TASKS", "Sample", "Task", "sample"]

TASKS: Mapping[str, Task] = MappingProxyType(
    {
        module.TASK.name: module.TASK
        for module in (single_needle, multi_needle, multi_value, multi_key, variable_tracking, aggregation)
    }
)
