"""A lane's buffers in one shape, and the graph that runs them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sfi_agent.contracts import PAGE, Drawing, Lane, Ranked, Rings, RowsKernel
from sfi_agent.contracts.drawing import NUMBERS, halves
from sfi_agent.runtime.asked import Mail, RowAsk
from sfi_agent.runtime.attention import maskless
from sfi_agent.runtime.graphs import Graphs
from sfi_agent.runtime.laned import Laned
from sfi_agent.runtime.linear import linears
from sfi_agent.runtime.pages import PagedCache
from sfi_agent.runtime.pool import PagePool
from sfi_agent.runtime.remembered import Chosen
from sfi_agent.runtime.seats import Seats
from sfi_agent.runtime.shape import Shape
from sfi_agent.runtime.sheet import Sheet
from sfi_agent.runtime.step import unrouted

if TYPE_CHECKING:
    from transformers import PreTrainedModel


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
        latest: int64, the tokens chosen by the latest step, room for any.
        graphs: captures the step; None: it runs as it is.

    Attributes:
        graph: of the step; None before ``ready``, and where there is none.
        logits: ``[vocabulary]`` of each token that is wanted, row after row, good until the next step is
            launched.
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
        room = shape.rows, shape.tokens, shape.found, -(-shape.span // PAGE)
        size = Sheet.size(*room)
        self._filled = Sheet.of(np.zeros(size, dtype=np.int32), *room)
        self._here = Sheet.of(torch.zeros(size, dtype=torch.int32, device=model.device), *room)
        self._best = latest[: shape.found]
        on_gpu = model.device.type == "cuda"
        self._mails = cycle([Mail(size, shape.found, on_gpu=on_gpu) for _ in range(2)])
        self._seats = seats
        self._tables: list[Any] = [None] * shape.rows
        length, tail, start, stop, wanted, shares = self._here.facts[:6]
        self._rings: list[Tensor | None] = [None] * shape.rows
        lane = Lane(
            shape.each,
            self._here.tables,
            length,
            tail,
            shape.span,
            lists=seats.lists if seats else None,
            ranked=Ranked(shape.coding, start, stop, wanted, shape.most, shape.reach)
            if shape.coding
            else None,
            shares=shares if shape.mixed else None,
            rings=Rings(self._rings, self._here.facts[6:]) if shape.queries else None,
            firsts=self._here.firsts if shape.each > 1 else None,
        )
        self._laned = Laned(pool, kernel, lane, window)
        text = model.config.get_text_config(decoder=True)
        self._query = pool.keys.new_empty(text.num_attention_heads, pool.keys.shape[-1])
        self._vocabulary = text.vocab_size
        self._likeliest = self._vocabulary if shape.cut else 0
        self._maskless = maskless(model)
        self._read = graphs.compiled(_read) if graphs else _read
        self._untried, self._fused = graphs, kernel.fuses(shape.tokens, model.dtype)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.logits: Sequence[Tensor] = ()

    def seated(self, asks: list[RowAsk]) -> list[RowAsk]:
        """In the order of their places in the step."""
        return self._seats.order(asks) if self._seats else asks

    def fill(self, asks: Sequence[RowAsk], ends: Sequence[int] = ()) -> list[int]:
        """Write what the rows are and hold, to be sent to the device at the next step.

        Args:
            asks: of the rows.
            ends: where what was found for each row ended in the step before, for those that follow it.

        Returns:
            where that ends in this one.
        """
        filled, shape, rows = self._filled, self._shape, len(asks)
        if shape.cut and self.graph is None and self._untried is None:
            draws = [ask.work.draw for ask in asks if ask.work.draw]
            self._likeliest = max(draw.likeliest(self._vocabulary) for draw in draws)
        if self._seats:
            self._seats.sit([ask.memory for ask in asks])
        share, firsts = self._share(asks), [0]
        wanted: list[int] = []
        found: list[int] = []
        tokens: list[int] = []
        positions: list[int] = []
        owners: list[int] = []
        facts = []
        for index, ask in enumerate(asks):
            n = len(ask.work.tokens)
            tokens += ask.work.tokens
            positions += range(ask.start, ask.start + n)
            owners += n * [index]
            if ask.follows is not None:
                tokens[-1] = -ends[ask.follows]
            self._rings[index] = self._ring(ask)
            facts.append(self._facts(ask, share, self._rings[index]))
            self._table(index, ask)
            firsts.append(len(tokens))
            wanted += range(len(tokens) - ask.work.wanted, len(tokens))
            found.append(len(tokens if shape.whole else wanted))
        unused, behind = shape.rows - rows, shape.tokens - len(tokens)
        filled.tokens[:] = tokens + behind * [0]
        filled.positions[:] = positions + behind * [0]
        filled.owners[:] = owners + behind * [shape.rows]
        filled.firsts[:] = firsts + unused * firsts[-1:]
        filled.wanted[:] = wanted + (shape.found - len(wanted)) * [0]
        filled.facts[:, :rows] = np.array(facts).T
        filled.facts[:, rows:] = 0
        filled.facts[0, rows:] = shape.each == 1  # then rows that only fill the step write to page 0
        if shape.drawn:
            filled.draws[rows:] = 0
            filled.draws[:rows] = [ask.work.draw.numbers if ask.work.draw else NUMBERS * (0,) for ask in asks]
        filled.tables[rows:] = 0
        self._tables[rows:] = self._rings[rows:] = unused * [None]
        return found

    def _table(self, index: int, ask: RowAsk) -> None:
        """Write which pages a row has, where that changed."""
        kv = ask.row.kv
        assert isinstance(kv, PagedCache)
        if self._tables[index] != (held := kv.version):
            table = self._filled.tables[index]
            pages = kv.held[: len(table)]  # it may hold more than this step reaches
            table[: len(pages)] = pages
            table[len(pages) :] = 0
            self._tables[index] = held

    def _share(self, asks: Sequence[RowAsk]) -> int:
        """What the kernel wants to know where some rows read far more than others."""
        if not self._shape.mixed:
            return 0
        # Those that only fill the step have a token, too, where all have one.
        reads = [1] * (self._shape.rows - len(asks) if self._shape.each == 1 else 0)
        for ask in asks:
            if len(ask.work.tokens) == 1:
                memory, length = ask.memory, ask.start + 1
                reads.append(length - memory.tail + memory.positions if memory else length)
        return self._kernel.share(reads, self._query.shape[0], self._pool.layer(0))

    def _ring(self, ask: RowAsk) -> Tensor | None:
        """Where the row keeps its queries, which the step will have written to it."""
        if not ask.kept:
            return None
        kv = ask.row.kv
        assert isinstance(kv, PagedCache)
        return ask.row.queries.entered(ask.start, len(ask.work.tokens), kv.windows, self._query)

    def _facts(self, ask: RowAsk, share: int, ring: Tensor | None) -> list[int]:
        """A row's ``FACTS``."""
        memory, n = ask.memory, len(ask.work.tokens)
        choice, kept = [0, 0, 0], [0, 0, 0, 0]
        if isinstance(memory, Chosen):
            choice = [memory.sink, memory.tail, memory.count * self._pool.keys.shape[2]]
        if ring is not None:
            kept = [*halves(ring.data_ptr()), ring.shape[1], n]
        return [ask.start + n, memory.tail if memory else 0, *choice, share, *kept]

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
        self._here.flat.copy_(torch.from_numpy(self._filled.flat))
        self.graph = graphs.capture(self._forward, fused=self._fused)
        if self.graph is None:
            self._read = _read
        return time.perf_counter() - began

    def launch(self) -> Mail:
        """Have the device begin the step, as it was filled; without one it is done on return."""
        mail = next(self._mails)
        mail.wait()  # a step that was dropped unread may not have been sent yet
        mail.sent.numpy()[:] = self._filled.flat
        self._here.flat.copy_(mail.sent, non_blocking=True)
        if self.graph is not None:
            self.graph.replay()
        else:
            with torch.inference_mode(), linears(self._model, self._shape.tokens):
                self._forward()
        self._rings[:] = [None] * len(self._rings)  # nothing is kept of sessions that may end
        mail.best.copy_(self._best, non_blocking=True)
        if mail.done:
            mail.done.record()
        return mail

    def _forward(self) -> None:
        here, kept = self._here, {}
        tokens, positions = self._read(here.tokens, here.positions, self._latest)
        wanted = None
        if not self._shape.whole:
            wanted = kept["logits_to_keep"] = here.wanted.long()
        with self._laned.begun() as step:
            output = self._model(
                input_ids=tokens,
                position_ids=positions,
                use_cache=False,
                **self._maskless,
                **kept,
                sfi_step=step,
            )
        if not self._laned.attended:
            raise unrouted(self._model)
        self.logits = output.logits[0].unbind()
        drawing = None
        if self._shape.drawn:
            drawn = here.owners, positions[0] + 1
            owners, behind = drawn if wanted is None else (each[wanted] for each in drawn)
            drawing = Drawing(here.draws[owners], behind, self._likeliest)
        self._kernel.draw(output.logits[0], drawing, self._best)


def _read(tokens: Tensor, positions: Tensor, latest: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens and their positions, ``[1, T]`` int64; a token may be named by its place in ``latest``."""
    read = torch.where(tokens < 0, latest[(-1 - tokens).clamp_min(0)], tokens)
    return read[None], positions[None].long()
