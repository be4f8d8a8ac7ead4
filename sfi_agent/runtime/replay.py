"""Decode steps of many rows, captured once as a CUDA graph and replayed.

A step over rows in pages has the same shape whatever they hold: where their pages are, how long they are and
what each attends to are numbers in device memory. So a lane of rows that read as many tokens each is captured
for a few sizes, the model compiled layer by layer; a step then copies one small array to the device, replays,
and reads back the most likely tokens. Where there is no CUDA the same step runs as it is.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from sfi_agent.contracts import PAGE, Coding, Lane, Lists, Ranked, RowsKernel
from sfi_agent.runtime.batcher import Job
from sfi_agent.runtime.compiled import compiled
from sfi_agent.runtime.laned import Laned
from sfi_agent.runtime.pages import PagedCache, PagePool
from sfi_agent.runtime.step import Outcome

MOST_TOKENS = 65
"""A verify's longest draft, and the token before it."""
FACTS = 5
"""Numbers of a row beside its tokens, their positions and its pages: length, tail, start, stop, wanted."""
SHORTEST = 4096
"""Launches are laid out for contexts of this many tokens, or twice as many, and so on."""


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


class Replayer:
    """Runs lanes of rows in pages.

    Args:
        model: on attention ``sfi``.
        pool: of the rows' pages.
        window: of the model, tokens.
        compile: whether to compile the model's layers; on CUDA only.

    Attributes:
        latest: the graph that was replayed last.
    """

    def __init__(self, model: PreTrainedModel, pool: PagePool, window: int, *, compile: bool = True) -> None:
        self._model, self._pool, self._window = model, pool, window
        self._compile = compile and model.device.type == "cuda"
        self._captured: dict[tuple[Shape, type[RowsKernel]], _Captured] = {}
        self.latest: torch.cuda.CUDAGraph | None = None
        self._memory = torch.cuda.graph_pool_handle() if model.device.type == "cuda" else None

    def lanes(self, jobs: Sequence[Job]) -> tuple[list[list[Job]], list[Job]]:
        """Jobs whose next steps may share a replay, and those that need a step of their own kind."""
        found: dict[Any, list[Job]] = {}
        rest = []
        for job in jobs:
            if (kind := self._kind(job)) is None:
                rest.append(job)
            else:
                found.setdefault(kind, []).append(job)
        return _joined(found), rest

    def _kind(self, job: Job) -> Any:
        """What a job's lane must agree on; None where no lane serves it."""
        work, row = job.turn.work, job.turn.row
        rows = job.turn.parts.kernel.rows()
        if work is None or work.prefill or rows is None or not isinstance(row.kv, PagedCache):
            return None
        memory = row.memory if work.fast else None
        if len(work.tokens) > MOST_TOKENS or (work.fast and (memory is None or len(work.tokens) != 1)):
            return None
        if memory is not None and not memory.in_pages:
            return None
        tokens = _power(len(work.tokens))
        return type(rows), tokens, memory and (memory.choice.coding if memory.choice else "listed")

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """One step of a lane.

        Raises:
            PoolFullError: a row has no page for its tokens.
        """
        began = time.perf_counter()
        works = [work for job in jobs if (work := job.turn.work)]
        n = _power(max(len(work.tokens) for work in works))
        for job in jobs:
            job.turn.row.begin(n)
        captured = self._for(jobs, n)
        captured.fill(jobs)
        logits, best = captured.step()
        self.latest = captured.graph
        seconds = time.perf_counter() - began
        for index, (job, work) in enumerate(zip(jobs, works, strict=True)):
            captured.keep_queries(index, job.turn.row, len(work.tokens))
        outcomes = []
        for index, (job, work) in enumerate(zip(jobs, works, strict=True)):
            row, used = job.turn.row, len(work.tokens)
            row.commit(used, fast=work.fast)
            wanted = slice(used - work.wanted, used)
            outcomes.append(Outcome(logits[index, wanted], seconds, best[index][wanted]))
        return outcomes

    def _for(self, jobs: Sequence[Job], n: int) -> _Captured:
        memories = [job.turn.row.memory for job in jobs if job.turn.work and job.turn.work.fast]
        lists = [memory.lists or {} for memory in memories if memory]
        choices = [memory.choice for memory in memories if memory and memory.choice]
        heads = self._pool.keys.shape[2]
        longest = max(job.turn.row.kv.length + n for job in jobs)
        listed = max((each.places.shape[2] for layers in lists for each in layers.values()), default=0)
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
            self._captured[key] = _Captured(
                self._model, self._pool, kernel, shape, self._window, self._memory, self._compile
            )
        return self._captured[key]


class _Captured:
    """One shape's buffers, and its graph once it was captured."""

    def __init__(
        self,
        model: PreTrainedModel,
        pool: PagePool,
        kernel: RowsKernel,
        shape: Shape,
        window: int,
        memory: Any,
        compile: bool,
    ) -> None:
        self._model, self._shape, self._compile, self._memory = model, shape, compile, memory
        self._pool = pool
        rows, n = shape.rows, shape.tokens
        width = 2 * n + FACTS + -(-shape.span // PAGE)
        on_gpu = model.device.type == "cuda"
        self._sent = torch.zeros(rows, width, dtype=torch.int32, pin_memory=on_gpu)
        self._here = torch.zeros(rows, width, dtype=torch.int32, device=model.device)
        self._best = torch.zeros(rows, n, dtype=torch.int64, pin_memory=on_gpu)
        layers, heads = pool.keys.shape[0], pool.keys.shape[2]
        self._lists = None
        if shape.listed:
            self._places = self._here.new_zeros(layers, rows, heads, shape.listed)
            self._counts = self._here.new_zeros(layers, rows, heads)
            each = zip(self._places, self._counts, strict=True)
            self._lists = {layer: Lists(*lists) for layer, lists in enumerate(each)}
        self._seats: list[Any] = [None] * rows
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
        self.graph: torch.cuda.CUDAGraph | None = None
        self._logits: Tensor | None = None

    def fill(self, jobs: Sequence[Job]) -> None:
        """Write what the rows are and hold, to be sent to the device at the next step."""
        n, heads = self._shape.tokens, self._pool.keys.shape[2]
        sent = self._sent.numpy()
        sent[:, : 2 * n + FACTS] = 0
        sent[len(jobs) :, 2 * n] = n
        sent[len(jobs) :, 2 * n + FACTS :] = 0  # a row that only fills the launch writes to page 0
        for index, job in enumerate(jobs):
            row, work = job.turn.row, job.turn.work
            assert work is not None
            assert isinstance(row.kv, PagedCache)
            start, memory = row.kv.length, row.memory if work.fast else None
            choice = memory.choice if memory else None
            self._sit(index, memory)
            line = sent[index]
            line[: len(work.tokens)] = work.tokens
            # What only fills a row stands where its last token does: no position passes the window.
            line[n : 2 * n] = start + np.minimum(np.arange(n), len(work.tokens) - 1)
            line[2 * n] = start + n
            line[2 * n + 1] = memory.tail if memory else 0
            if choice:
                line[2 * n + 2 : 2 * n + FACTS] = choice.start, choice.stop, choice.count * heads
            if self._tables[index] != (held := row.kv.version):
                self._tables[index] = held
                table = line[2 * n + FACTS :]
                pages = row.kv.held[: len(table)]  # it may hold more than this step reaches
                table[: len(pages)] = pages
        for index in range(len(jobs), self._shape.rows):
            self._sit(index, None)
            self._tables[index] = None

    def _sit(self, index: int, memory: Any) -> None:
        """Have a memory's lists in this row's place."""
        if self._lists is None or self._seats[index] is memory:
            return
        self._seats[index] = memory
        if memory is None or (listed := memory.listed_in(len(self._lists))) is None:
            self._counts[:, index] = 0
            return
        places, counts = listed
        self._places[:, index, :, : places.shape[2]] = places
        self._counts[:, index] = counts

    def step(self) -> tuple[Tensor, list[list[int]]]:
        """Logits ``[rows, n, vocabulary]``, good until the next step, and the most likely tokens."""
        if self._model.device.type != "cuda":
            with torch.inference_mode():
                self._logits = self._forward()
            return self._logits, self._best.tolist()
        if self.graph is None:
            self._capture()
        assert self.graph is not None
        assert self._logits is not None
        self.graph.replay()
        torch.cuda.current_stream().synchronize()
        return self._logits, self._best.tolist()

    def keep_queries(self, index: int, row: Any, tokens: int) -> None:
        """Put the queries of a row's tokens with its latest."""
        if self._shape.queries and row.capture:
            first = index * self._shape.tokens
            row.queries.write_layers(row.kv.length, self._laned.queries(first, first + tokens))

    def _forward(self) -> Tensor:
        n = self._shape.tokens
        self._here.copy_(self._sent, non_blocking=True)
        self._columns.copy_(self._here[:, 2 * n : 2 * n + FACTS].t())
        output = self._model(
            input_ids=self._here[:, :n].reshape(1, -1).long(),
            position_ids=self._here[:, n : 2 * n].reshape(1, -1).long(),
            use_cache=False,
            sfi_step=self._laned.begun(),
        )
        logits: Tensor = output.logits[0].unflatten(0, (self._shape.rows, n))
        self._best.copy_(logits.argmax(-1), non_blocking=True)
        return logits

    def _capture(self) -> None:
        """Run once on the side, so that all is compiled, then record."""
        with torch.inference_mode(), ExitStack() as within:
            if self._compile:
                within.enter_context(compiled(self._model))
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(2):
                    self._forward()
            torch.cuda.current_stream().wait_stream(side)
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._memory):
                self._logits = self._forward()
        self.graph = graph


def _power(count: int) -> int:
    """The least power of two from ``count`` on."""
    return 1 << max(count - 1, 0).bit_length()


def _joined(found: dict[Any, list[Job]]) -> list[list[Job]]:
    """Dense rows of one token join a lane of fast ones, where there is one."""
    for kernel, tokens, memory in list(found):
        if memory is None and tokens == 1:
            fast = [key for key in found if key[:2] == (kernel, tokens) and key[2] is not None]
            if fast:
                found[fast[0]] += found.pop((kernel, tokens, memory))
    return list(found.values())
