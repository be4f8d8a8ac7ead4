"""Decode steps of many rows, captured once as a CUDA graph and replayed.

A step over rows in pages has the same shape whatever they hold: where their pages are, how long they are and
what each attends to are numbers in device memory. So a lane of rows, their tokens behind one another, is
captured for a few sizes, the model compiled layer by layer; a step then copies one small array to the device,
replays, and reads back the most likely tokens. Where there is no CUDA the same step runs as it is.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import torch

from sfi_agent.contracts import RowsKernel
from sfi_agent.runtime.asked import Mail, RowAsk
from sfi_agent.runtime.captured import Captured
from sfi_agent.runtime.graphs import Graphs
from sfi_agent.runtime.job import Job
from sfi_agent.runtime.pages import PagedCache
from sfi_agent.runtime.pool import PagePool
from sfi_agent.runtime.remembered import Chosen
from sfi_agent.runtime.seats import Seats
from sfi_agent.runtime.shape import EACH, LANE_ROWS, LANE_TOKENS, Shape
from sfi_agent.runtime.step import Outcome, Work

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MOST_CAPTURED = 128
"""Shapes whose graphs are kept; the one least recently used goes first."""


@dataclass(frozen=True)
class Launched:
    """A lane's step that the device has begun.

    Attributes:
        asks: of its rows, in their places.
        captured: what runs it.
        mail: what comes back.
        ends: where what it finds for each row ends.
        at: when it was launched, seconds.
        preparing: seconds before that in which it was compiled and captured.
    """

    asks: list[RowAsk]
    captured: Captured
    mail: Mail
    ends: list[int]
    at: float
    preparing: float


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
        self._vocabulary = model.config.get_text_config(decoder=True).vocab_size
        self._graphs = graphs or (Graphs(model) if model.device.type == "cuda" else None)
        self._captured: OrderedDict[tuple[Shape, type[RowsKernel]], Captured] = OrderedDict()
        self._seats: WeakValueDictionary[tuple[int, int], Seats] = WeakValueDictionary()
        self._tokens = torch.zeros(LANE_TOKENS, dtype=torch.int64, device=model.device)
        self._read_at = 0.0
        self.latest: torch.cuda.CUDAGraph | None = None

    def lanes(
        self, jobs: Sequence[Job], works: Sequence[Work | None] | None = None
    ) -> tuple[list[list[Job]], list[Job]]:
        """Jobs whose next steps may share a replay, and those that need a step of their own kind.

        Args:
            jobs: of rows.
            works: what the steps do; None: what the jobs' turns ask now.
        """
        found: dict[Any, list[tuple[Job, int]]] = {}
        rest = []
        for job, work in zip(jobs, works or [job.turn.work for job in jobs], strict=True):
            if work is None or (kind := self._kind(job, work)) is None:
                rest.append(job)
            else:
                found.setdefault(kind, []).append((job, len(work.tokens)))
        return [part for lane in _joined(found).values() for part in _split(lane)], rest

    def _kind(self, job: Job, work: Work) -> Any:
        """What a job's lane must agree on; None where no lane serves it."""
        row, rows = job.turn.row, job.turn.parts.kernel.rows()
        if rows is None or not isinstance(row.kv, PagedCache) or len(work.tokens) > EACH[-1]:
            return None
        if not work.fast:
            return type(rows), None
        memory = row.memory.pages if row.memory else None
        if memory is None or len(work.tokens) != 1:
            return None
        return type(rows), memory.coding if isinstance(memory, Chosen) else "listed"

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """One step of a lane.

        Raises:
            PoolFullError: a row has no page for its tokens.
        """
        launched = self.launch([RowAsk.of(job) for job in jobs])
        outcomes = self.read(launched, range(len(jobs)))
        found = {id(ask.job): outcome for ask, outcome in zip(launched.asks, outcomes, strict=True)}
        return [found[id(job)] for job in jobs]

    def launch(self, asks: list[RowAsk]) -> Launched:
        """Have the device begin a lane's step; rows are as they were.

        Raises:
            PoolFullError: a row has no page for its tokens.
        """
        return self._begun(asks, self._for(asks))

    def follow(self, asks: list[RowAsk], before: Launched | None = None) -> Launched | None:
        """As :meth:`launch`, while the step before runs; None where it is yet to be captured.

        That takes long, and would run it some times over, each time on other tokens.
        """
        captured = self._for(asks)
        return None if captured.untried else self._begun(asks, captured, before.ends if before else ())

    def _begun(self, asks: list[RowAsk], captured: Captured, before: Sequence[int] = ()) -> Launched:
        asks = captured.seated(asks)
        for ask in asks:
            ask.row.begin(len(ask.work.tokens), ask.start)
        at = time.perf_counter()
        ends = captured.fill(asks, before)
        preparing = captured.ready()
        mail = captured.launch()
        self.latest = captured.graph
        return Launched(asks, captured, mail, ends, at, preparing)

    def read(
        self, launched: Launched, kept: Collection[int], committed: Collection[int] = ()
    ) -> list[Outcome]:
        """What a step found, once it is done, for the rows at these places, which it commits if they are not.

        Logits are good until the next step is launched, which may have been before.
        """
        best = launched.mail.read()
        now = time.perf_counter()
        # It began when it was launched, or when the one before it was done.
        seconds = now - max(launched.at + launched.preparing, self._read_at)
        self._read_at = now
        outcomes, prompts = [], any(ask.work.prefill for ask in launched.asks)
        for index in kept:
            work = launched.asks[index].work
            if index not in committed:
                launched.asks[index].row.commit(len(work.tokens), fast=work.fast)
            end = launched.ends[index]
            wanted = slice(end - work.wanted, end)
            logits = launched.captured.logits[wanted]
            outcomes.append(Outcome(logits, seconds, best[wanted], launched.preparing, prompts))
        return outcomes

    def _for(self, asks: Sequence[RowAsk]) -> Captured:
        shape = Shape.of(asks, self._pool.keys.shape[2], self._vocabulary)
        kernel = asks[0].job.turn.parts.kernel.rows()
        assert kernel is not None
        key = shape, type(kernel)
        if key not in self._captured:
            seats = self._seats_for(shape) if shape.listed else None
            self._captured[key] = Captured(
                self._model, self._pool, kernel, shape, seats, self._window, self._tokens, self._graphs
            )
            if len(self._captured) > MOST_CAPTURED:
                self._captured.popitem(last=False)
        self._captured.move_to_end(key)
        return self._captured[key]

    def _seats_for(self, shape: Shape) -> Seats:
        size = shape.rows, shape.listed
        if (seats := self._seats.get(size)) is None:
            layers, _, heads = self._pool.keys.shape[:3]
            seats = self._seats[size] = Seats(layers, shape.rows, heads, shape.listed, self._model.device)
        return seats


def _joined(found: dict[Any, list[Any]]) -> dict[Any, list[Any]]:
    """Dense rows join the first lane of others, where there is one: it reads the weights anyway."""
    for kernel in {kernel for kernel, memory in found if memory is None}:
        for other in found:
            if other[0] is kernel and other[1] is not None:
                found[other] += found.pop((kernel, None))
                break
    return found


def _split(lane: list[tuple[Job, int]]) -> list[list[Job]]:
    """Lanes of as many rows and tokens as one step takes."""
    parts: list[list[Job]] = []
    left = 0
    for job, tokens in lane:
        if not parts or len(parts[-1]) == LANE_ROWS or tokens > left:
            parts.append([])
            left = LANE_TOKENS
        parts[-1].append(job)
        left -= tokens
    return parts
