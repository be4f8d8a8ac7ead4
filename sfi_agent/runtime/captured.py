"""A lane's buffers in one shape, and the graph that runs them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from sfi_agent.contracts import PAGE, Coding, Drawing, Lane, Ranked, Rings, RowsKernel
from sfi_agent.contracts.drawing import NUMBERS, halves
from sfi_agent.runtime.asked import Ask, Mail
from sfi_agent.runtime.attention import maskless
from sfi_agent.runtime.graphs import Graphs
from sfi_agent.runtime.laned import Laned
from sfi_agent.runtime.pages import PagedCache
from sfi_agent.runtime.pool import PagePool
from sfi_agent.runtime.remembered import Chosen
from sfi_agent.runtime.seats import Seats
from sfi_agent.runtime.step import unrouted

LANE_FACTS = 10
"""Numbers of a row that its lane has: length, tail, start, stop, wanted, share, and its ring's."""
FACTS = LANE_FACTS + NUMBERS
"""Numbers of a row beside its tokens, their positions and its pages: those, and how its tokens are drawn."""


@dataclass(frozen=True)
class Shape:
    """What a captured step is good for.

    Attributes:
        rows, tokens: up to so many rows, a power of two, of up to so many tokens each.
        span: the longest context; a power of two.
        listed: places that a head may have listed; 0: nothing is.
        coding: by which rows choose; None: they do not.
        most: positions that one head may be given by a choice.
        reach: where the longest stretch to choose from ends, a power of two.
        queries: whether some rows' queries are kept for evidence.
        drawn: whether some rows' tokens are drawn.
        cut: whether some of them are of the likeliest only.
        mixed: whether some rows are dense among others that are not.
    """

    rows: int
    tokens: int
    span: int
    listed: int = 0
    coding: Coding | None = None
    most: int = 0
    reach: int = 0
    queries: bool = False
    drawn: bool = False
    cut: bool = False
    mixed: bool = False


class Captured:
    """One shape's buffers, and its graph once it was captured.

    Two steps may be under way at a time, the second of which reads what the first finds most likely.

    Args:
        model: on attention ``sfi``.
        pool: of the rows' pages.
        kernel: computes attention.
        shape: what it is good for.
        seats: of as many rows as it has, where places are listed; None: they are not.
        window: of the model, tokens.
        latest: ``[LANE_ROWS]`` int64, the tokens chosen by the latest step of one token a row.
        graphs: captures the step; None: it runs as it is.

    Attributes:
        graph: of the step; None before ``ready``, and where there is none.
        logits: of each token, ``[vocabulary]``, good until the next step is launched.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        pool: PagePool,
        kernel: RowsKernel,
        shape: Shape,
        seats: Seats | None,
        window: int,
        latest: Tensor,
        graphs: Graphs | None,
    ) -> None:
        self._model, self._shape, self._pool, self._latest = model, shape, pool, latest
        self._kernel = kernel
        rows, n = shape.rows, shape.tokens
        width = 2 * n + FACTS + -(-shape.span // PAGE)
        self._filled = np.zeros((rows, width), dtype=np.int32)
        self._here = torch.zeros(rows, width, dtype=torch.int32, device=model.device)
        self._best = latest[:rows] if n == 1 else latest.new_zeros(rows * n)
        on_gpu = model.device.type == "cuda"
        self._mails = cycle([Mail(rows, width, n, on_gpu=on_gpu) for _ in range(2)])
        self._seats = seats
        self._tables: list[Any] = [None] * rows
        columns = self._here[:, 2 * n : 2 * n + LANE_FACTS].t().contiguous()
        self._columns = columns
        length, tail, start, stop, wanted, shares = columns[:6]
        ranked = None
        if shape.coding:
            ranked = Ranked(shape.coding, start, stop, wanted, shape.most, shape.reach)
        table = self._here[:, 2 * n + FACTS :]
        self._rings: list[Tensor | None] = [None] * rows
        rings = Rings(self._rings, columns[6:]) if shape.queries else None
        shared = shares if shape.mixed else None
        lane = Lane(n, table, length, tail, shape.span, seats.lists if seats else None, ranked, shared, rings)
        self._laned = Laned(pool, kernel, lane, window)
        text = model.config.get_text_config(decoder=True)
        self._query = pool.keys.new_empty(text.num_attention_heads, pool.keys.shape[-1])
        self._vocabulary = text.vocab_size
        self._likeliest = self._vocabulary if shape.cut else 0
        self._maskless = maskless(model)
        self._read = graphs.compiled(_read) if graphs else _read
        self._untried, self._fused = graphs, kernel.fuses(rows * n, model.dtype)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.logits: Sequence[Tensor] = ()

    def seated(self, asks: list[Ask]) -> list[Ask]:
        """In the order of their places in the step."""
        return self._seats.order(asks) if self._seats else asks

    def fill(self, asks: Sequence[Ask]) -> None:
        """Write what the rows are and hold, to be sent to the device at the next step."""
        facts = 2 * self._shape.tokens + FACTS
        filled = self._filled
        share = self._share(asks)
        if self._shape.cut and self.graph is None and self._untried is None:
            draws = [ask.work.draw for ask in asks if ask.work.draw]
            self._likeliest = max(draw.likeliest(self._vocabulary) for draw in draws)
        if self._seats:
            self._seats.sit([ask.memory for ask in asks])
        for index, ask in enumerate(asks):
            self._rings[index] = self._ring(ask)
            filled[index, :facts] = self._facts(ask, share, self._rings[index])
            kv = ask.row.kv
            assert isinstance(kv, PagedCache)
            if self._tables[index] != (held := kv.version):
                table = filled[index, facts:]
                pages = kv.held[: len(table)]  # it may hold more than this step reaches
                table[: len(pages)] = pages
                table[len(pages) :] = 0  # where what only fills a row is written, past its pages
                self._tables[index] = held
        for index in range(len(asks), self._shape.rows):
            self._tables[index] = self._rings[index] = None
            filled[index] = 0  # a row that only fills the launch writes to page 0
            filled[index, facts - FACTS] = self._shape.tokens

    def _share(self, asks: Sequence[Ask]) -> int:
        """What the kernel wants to know where some rows read far more than others."""
        if not self._shape.mixed:
            return 0
        reads = [self._shape.tokens] * (self._shape.rows - len(asks))
        for ask in asks:
            length = ask.start + self._shape.tokens
            reads.append(length - ask.memory.tail + ask.memory.positions if ask.memory else length)
        return self._kernel.share(reads, self._query.shape[0], self._pool.layer(0))

    def _ring(self, ask: Ask) -> Tensor | None:
        """Where the row keeps its queries, which the step will have written to it."""
        if not ask.kept:
            return None
        kv = ask.row.kv
        assert isinstance(kv, PagedCache)
        return ask.row.queries.entered(ask.start, len(ask.work.tokens), kv.windows, self._query)

    def _facts(self, ask: Ask, share: int, ring: Tensor | None) -> list[int]:
        """A row's tokens and their positions, filled up, its ``LANE_FACTS``, and how it draws."""
        n, start, read = self._shape.tokens, ask.start, ask.work.tokens
        # What only fills a row stands where its last token does: no position passes the window.
        spare, last = n - len(read), start + len(read) - 1
        memory = ask.memory
        choice = [0, 0, 0]
        if isinstance(memory, Chosen):
            choice = [memory.sink, memory.tail, memory.count * self._pool.keys.shape[2]]
        if ask.follows is not None:
            read = (-1 - ask.follows,)
        tokens = [*read, *[0] * spare, *range(start, last + 1), *[last] * spare]
        draw = ask.work.draw.numbers if ask.work.draw else NUMBERS * (0,)
        kept = [0, 0, 0, 0]
        if ring is not None:
            kept = [*halves(ring.data_ptr()), ring.shape[1], len(ask.work.tokens)]
        return [*tokens, start + n, memory.tail if memory else 0, *choice, share, *kept, *draw]

    @property
    def untried(self) -> bool:
        """Whether the step has yet to be captured, which runs it some times over."""
        return self._untried is not None

    def ready(self) -> float:
        """Capture the step, filled, before it first runs; seconds that took."""
        if self._untried is None:
            return 0.0
        began = time.perf_counter()
        graphs, self._untried = self._untried, None
        self._here.copy_(torch.from_numpy(self._filled))
        self.graph = graphs.capture(self._forward, fused=self._fused)
        if self.graph is None:
            self._read = _read
        return time.perf_counter() - began

    def launch(self) -> Mail:
        """Have the device begin the step, as it was filled; without one it is done on return."""
        mail = next(self._mails)
        mail.wait()  # a step that was dropped unread may not have been sent yet
        mail.sent.numpy()[:] = self._filled
        self._here.copy_(mail.sent, non_blocking=True)
        if self.graph is not None:
            self.graph.replay()
        else:
            with torch.inference_mode():
                self._forward()
        self._rings[:] = [None] * len(self._rings)  # nothing is kept of sessions that may end
        mail.best.copy_(self._best, non_blocking=True)
        if mail.done:
            mail.done.record()
        return mail

    def _forward(self) -> None:
        n = self._shape.tokens
        tokens, positions = self._read(self._here, self._latest, self._columns, n)
        output = self._model(
            input_ids=tokens,
            position_ids=positions,
            use_cache=False,
            **self._maskless,
            sfi_step=self._laned.begun(),
        )
        if not self._laned.attended:
            raise unrouted(self._model)
        self.logits = output.logits[0].unbind()
        drawing = None
        if self._shape.drawn:
            first = 2 * n + LANE_FACTS
            numbers = self._here[:, first : first + NUMBERS].repeat_interleave(n, 0)
            drawing = Drawing(numbers, positions[0] + 1, self._likeliest)
        self._kernel.draw(output.logits[0], drawing, self._best)


def _read(here: Tensor, latest: Tensor, columns: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Tokens and their positions ``[1, R * n]`` of the rows' facts, whose numbers go to ``columns``.

    One token a row may be named by its place in ``latest``, as -1 less that.
    """
    columns.copy_(here[:, 2 * n : 2 * n + LANE_FACTS].t())
    tokens = here[:, :n].reshape(1, -1).long()
    if n == 1:
        tokens = torch.where(tokens < 0, latest[(-1 - tokens).clamp_min(0)], tokens)
    return tokens, here[:, n : 2 * n].reshape(1, -1).long()
