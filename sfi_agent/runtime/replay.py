"""Decode steps of many rows, captured once as a CUDA graph and replayed.

A step over rows in pages has the same shape whatever they hold: where their pages are, how long they are and
what each attends to are numbers in device memory. So a lane of rows that read as many tokens each is captured
for a few sizes, the model compiled layer by layer; a step then copies one small array to the device, replays,
and reads back the most likely tokens. Where there is no CUDA the same step runs as it is.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from sfi_agent.contracts import RowsKernel
from sfi_agent.runtime.batcher import Job
from sfi_agent.runtime.captured import Captured, Shape
from sfi_agent.runtime.graphs import Graphs
from sfi_agent.runtime.pages import PagedCache
from sfi_agent.runtime.pool import PagePool
from sfi_agent.runtime.remembered import Chosen, Listed
from sfi_agent.runtime.step import Outcome

MOST_TOKENS = 65
"""A verify's longest draft, and the token before it."""
SHORTEST = 4096
"""Launches are laid out for contexts of this many tokens, or twice as many, and so on."""
LANE_ROWS, LANE_TOKENS = 256, 1024
"""Rows of one lane, and their tokens together, at most: its logits have a vocabulary for each."""
MOST_CAPTURED = 32
"""Shapes whose graphs are kept; the one least recently used goes first."""


class Replayer:
    """Runs lanes of rows in pages.

    Args:
        model: on attention ``sfi``.
        pool: of the rows' pages.
        window: of the model, tokens.
        graphs: captures steps; None: on CUDA its own, elsewhere steps run as they are.

    Attributes:
        latest: the graph that was replayed last.
    """

    def __init__(
        self, model: PreTrainedModel, pool: PagePool, window: int, *, graphs: Graphs | None = None
    ) -> None:
        self._model, self._pool, self._window = model, pool, window
        self._graphs = graphs or (Graphs(model) if model.device.type == "cuda" else None)
        self._captured: OrderedDict[tuple[Shape, type[RowsKernel]], Captured] = OrderedDict()
        self.latest: torch.cuda.CUDAGraph | None = None

    def lanes(self, jobs: Sequence[Job]) -> tuple[list[list[Job]], list[Job]]:
        """Jobs whose next steps may share a replay, and those that need a step of their own kind."""
        found: dict[Any, list[Job]] = {}
        rest = []
        for job in jobs:
            if (kind := self._kind(job)) is None:
                rest.append(job)
            else:
                found.setdefault(kind, []).append(job)
        return [part for kind, lane in _joined(found).items() for part in _split(lane, kind[1])], rest

    def _kind(self, job: Job) -> Any:
        """What a job's lane must agree on; None where no lane serves it."""
        work, row = job.turn.work, job.turn.row
        rows = job.turn.parts.kernel.rows()
        if work is None or work.prefill or rows is None or not isinstance(row.kv, PagedCache):
            return None
        if len(work.tokens) > MOST_TOKENS:
            return None
        if not work.fast:
            return type(rows), _power(len(work.tokens)), None
        memory = row.memory.pages if row.memory else None
        if memory is None or len(work.tokens) != 1:
            return None
        return type(rows), 1, memory.coding if isinstance(memory, Chosen) else "listed"

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """One step of a lane.

        Raises:
            PoolFullError: a row has no page for its tokens.
        """
        works = [work for job in jobs if (work := job.turn.work)]
        n = _power(max(len(work.tokens) for work in works))
        for job, work in zip(jobs, works, strict=True):
            job.turn.row.begin(len(work.tokens))
        captured = self._for(jobs, n)
        began = time.perf_counter()
        captured.fill(jobs)
        preparing = captured.ready()
        captured.launch()
        for index, (job, work) in enumerate(zip(jobs, works, strict=True)):
            captured.keep_queries(index, job.turn.row, len(work.tokens))
        logits, best = captured.read()
        self.latest = captured.graph
        seconds = time.perf_counter() - began - preparing
        outcomes = []
        for index, (job, work) in enumerate(zip(jobs, works, strict=True)):
            job.turn.row.commit(len(work.tokens), fast=work.fast)
            stop = index * n + len(work.tokens)
            wanted = slice(stop - work.wanted, stop)
            outcomes.append(Outcome(logits[wanted], seconds, best[wanted], preparing))
        return outcomes

    def _for(self, jobs: Sequence[Job], n: int) -> Captured:
        fast = [row.memory for job in jobs if (row := job.turn.row) and job.turn.work and job.turn.work.fast]
        memories = [memory.pages for memory in fast if memory]
        choices = [memory for memory in memories if isinstance(memory, Chosen)]
        heads = self._pool.keys.shape[2]
        longest = max(job.turn.row.kv.length + n for job in jobs)
        listed = max((each.places.shape[2] for each in memories if isinstance(each, Listed)), default=0)
        shape = Shape(
            rows=_power(len(jobs)),
            tokens=n,
            span=max(SHORTEST, _power(longest)),
            listed=_power(listed) if listed else 0,
            coding=choices[0].coding if choices else None,
            most=_power(max(choice.most(heads) for choice in choices)) if choices else 0,
            queries=any(job.turn.parts.selector.rows_wanted() > 0 and job.turn.row.capture for job in jobs),
        )
        kernel = jobs[0].turn.parts.kernel.rows()
        assert kernel is not None
        key = shape, type(kernel)
        if key not in self._captured:
            self._captured[key] = Captured(self._model, self._pool, kernel, shape, self._window, self._graphs)
            if len(self._captured) > MOST_CAPTURED:
                self._captured.popitem(last=False)
        self._captured.move_to_end(key)
        return self._captured[key]


def _power(count: int) -> int:
    """The least power of two from ``count`` on."""
    return 1 << max(count - 1, 0).bit_length()


def _joined(found: dict[Any, list[Job]]) -> dict[Any, list[Job]]:
    """Dense rows of one token join a lane of fast ones, where there is one."""
    for kernel, tokens, memory in list(found):
        if memory is None and tokens == 1:
            fast = [key for key in found if key[:2] == (kernel, tokens) and key[2] is not None]
            if fast:
                found[fast[0]] += found.pop((kernel, tokens, memory))
    return found


def _split(lane: list[Job], tokens: int) -> list[list[Job]]:
    """Lanes of as many rows as one step takes."""
    most = min(LANE_ROWS, max(1, LANE_TOKENS // tokens))
    return [lane[first : first + most] for first in range(0, len(lane), most)]
