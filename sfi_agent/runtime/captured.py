"""A lane's buffers in one shape, and the graph that runs them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sfi_agent.contracts import PAGE, Coding, Lane, Lists, Ranked, RowsKernel
from sfi_agent.runtime.batcher import Job
from sfi_agent.runtime.graphs import Graphs
from sfi_agent.runtime.laned import Laned
from sfi_agent.runtime.pages import PagedCache
from sfi_agent.runtime.pool import PagePool
from sfi_agent.runtime.remembered import Chosen, Listed, Remembered
from sfi_agent.runtime.row import Row

FACTS = 5
"""Numbers of a row beside its tokens, their positions and its pages: length, tail, start, stop, wanted."""


@dataclass(frozen=True)
class Shape:
    """What a captured step is good for.

    Attributes:
        rows, tokens: up to so many rows of up to so many tokens each; powers of two.
        span: the longest context; a power of two.
        listed: places that a head may have listed; 0: nothing is.
        coding: by which rows choose; None: they do not.
        most: positions that one head may be given by a choice.
        queries: whether the step's queries are kept for evidence.
    """

    rows: int
    tokens: int
    span: int
    listed: int = 0
    coding: Coding | None = None
    most: int = 0
    queries: bool = False


class Captured:
    """One shape's buffers, and its graph once it was captured.

    Args:
        model: on attention ``sfi``.
        pool: of the rows' pages.
        kernel: computes attention.
        shape: what it is good for.
        window: of the model, tokens.
        graphs: captures the step; None: it runs as it is.

    Attributes:
        graph: of the step; None before ``ready``, and where there is none.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        pool: PagePool,
        kernel: RowsKernel,
        shape: Shape,
        window: int,
        graphs: Graphs | None,
    ) -> None:
        self._model, self._shape, self._pool = model, shape, pool
        rows, n = shape.rows, shape.tokens
        width = 2 * n + FACTS + -(-shape.span // PAGE)
        on_gpu = model.device.type == "cuda"
        self._sent = torch.zeros(rows, width, dtype=torch.int32, pin_memory=on_gpu)
        self._here = torch.zeros(rows, width, dtype=torch.int32, device=model.device)
        self._best = torch.zeros(rows * n, dtype=torch.int64, pin_memory=on_gpu)
        self._done = torch.cuda.Event() if on_gpu else None  # type: ignore[no-untyped-call]
        layers, heads = pool.keys.shape[0], pool.keys.shape[2]
        self._lists = None
        if shape.listed:
            self._places = self._here.new_zeros(layers, rows, heads, shape.listed)
            self._counts = self._here.new_zeros(layers, rows, heads)
            each = zip(self._places, self._counts, strict=True)
            self._lists = {layer: Lists(*lists) for layer, lists in enumerate(each)}
        self._seats: list[Remembered | None] = [None] * rows
        self._tables: list[Any] = [None] * rows
        columns = self._here[:, 2 * n : 2 * n + FACTS].t().contiguous()
        self._columns = columns
        length, tail, start, stop, wanted = columns
        ranked = None
        if shape.coding:
            ranked = Ranked(shape.coding, start, stop, wanted, shape.most, shape.span)
        table = self._here[:, 2 * n + FACTS :]
        # Laid out for whole contexts: rows that remember little share the launch with dense ones.
        lane = Lane(n, table, length, tail, shape.span, self._lists, ranked)
        self._laned = Laned(pool, kernel, lane, window, queries=shape.queries)
        self._untried = graphs
        self.graph: torch.cuda.CUDAGraph | None = None
        self._logits: Sequence[Tensor] = ()

    def fill(self, jobs: Sequence[Job]) -> None:
        """Write what the rows are and hold, to be sent to the device at the next step."""
        facts = 2 * self._shape.tokens + FACTS
        sent = self._sent.numpy()
        sent[: len(jobs), :facts] = [self._facts(job) for job in jobs]
        for index, job in enumerate(jobs):
            row, work = job.turn.row, job.turn.work
            assert work is not None
            assert isinstance(row.kv, PagedCache)
            self._sit(index, _remembered(job))
            if self._tables[index] != (held := row.kv.version):
                self._tables[index] = held
                table = sent[index, facts:]
                pages = row.kv.held[: len(table)]  # it may hold more than this step reaches
                table[: len(pages)] = pages
                table[len(pages) :] = 0  # where what only fills a row is written, past its pages
        for index in range(len(jobs), self._shape.rows):
            self._sit(index, None)
            self._tables[index] = None
            sent[index] = 0  # a row that only fills the launch writes to page 0
            sent[index, facts - FACTS] = self._shape.tokens

    def _facts(self, job: Job) -> list[int]:
        """A row's tokens and their positions, filled up, and its length, tail, start, stop and wanted."""
        n, row, work = self._shape.tokens, job.turn.row, job.turn.work
        assert work is not None
        start, used = row.kv.length, len(work.tokens)
        # What only fills a row stands where its last token does: no position passes the window.
        spare, last = n - used, start + used - 1
        memory = _remembered(job)
        choice = [0, 0, 0]
        if isinstance(memory, Chosen):
            choice = [memory.sink, memory.tail, memory.count * self._pool.keys.shape[2]]
        tokens = [*work.tokens, *[0] * spare, *range(start, last + 1), *[last] * spare]
        return [*tokens, start + n, memory.tail if memory else 0, *choice]

    def _sit(self, index: int, memory: Remembered | None) -> None:
        """Have a memory's lists in this row's place."""
        if self._lists is None or self._seats[index] is memory:
            return
        self._seats[index] = memory
        if isinstance(memory, Listed):
            self._places[:, index, :, : memory.places.shape[2]] = memory.places
            self._counts[:, index] = memory.counts
        else:
            self._counts[:, index] = 0

    def ready(self) -> float:
        """Capture the step, filled, before it first runs; seconds that took."""
        if self._untried is None:
            return 0.0
        began = time.perf_counter()
        graphs, self._untried = self._untried, None
        self.graph = graphs.capture(self._forward)
        return time.perf_counter() - began

    def launch(self) -> None:
        """Have the device begin the step; without one it is done on return."""
        if self.graph is not None:
            self.graph.replay()
        else:
            with torch.inference_mode():
                self._forward()
        if self._done:
            self._done.record()

    def read(self) -> tuple[Sequence[Tensor], list[int]]:
        """Once the step is done: each token's logits ``[vocabulary]``, good until the next step, and the
        most likely tokens; of ``rows * n`` tokens, row after row."""
        if self._done:
            self._done.synchronize()
        return self._logits, self._best.tolist()

    def keep_queries(self, index: int, row: Row, tokens: int) -> None:
        """Put the queries of a row's tokens, once the step has them, with its latest."""
        if self._shape.queries and row.capture:
            first = index * self._shape.tokens
            row.queries.write_layers(row.kv.length, self._laned.queries(first, first + tokens))

    def _forward(self) -> None:
        n = self._shape.tokens
        self._here.copy_(self._sent, non_blocking=True)
        self._columns.copy_(self._here[:, 2 * n : 2 * n + FACTS].t())
        output = self._model(
            input_ids=self._here[:, :n].reshape(1, -1).long(),
            position_ids=self._here[:, n : 2 * n].reshape(1, -1).long(),
            use_cache=False,
            sfi_step=self._laned.begun(),
        )
        self._logits = output.logits[0].unbind()
        self._best.copy_(output.logits[0].argmax(-1), non_blocking=True)


def _remembered(job: Job) -> Remembered | None:
    """What a job's step attends to beside what is recent; None: to everything."""
    work, memory = job.turn.work, job.turn.row.memory
    return memory.pages if work and work.fast and memory else None
