"""Steps of a model, compiled and captured as CUDA graphs."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch

from sfi_agent.runtime.compiled import compiled

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)
COMPILED_SECONDS = 1.0
"""A capture that takes longer has compiled; one that has not takes a few tenths."""
_one_at_a_time = threading.Lock()
"""Captures of a process share a stream, and compiling the settings of torch."""


class Graphs:
    """Captures what runs a model. All graphs share their memory, so that one replays at a time.

    Args:
        model: on a CUDA device.
        compile: whether to compile its layers.
    """

    def __init__(self, model: PreTrainedModel, *, compile: bool = True) -> None:
        self._model, self._compile = model, compile
        self._memory: Any = None
        self._told = False

    def capture(self, run: Callable[[], None], *, fused: bool = False) -> torch.cuda.CUDAGraph | None:
        """A graph that does what ``run`` does; None where it cannot be captured, which is logged once.

        Args:
            run: the step.
            fused: as for :func:`sfi_agent.runtime.compiled.compiled`.
        """
        began = time.perf_counter()
        try:
            return self._captured(run, fused)
        except Exception as error:  # a model's own, too: it is run as it is next, and raises it again
            self._memory = None  # a capture that failed may count as using it still
            if not self._told:
                reason = " ".join(str(error).split()) or type(error).__name__
                log.warning("a step cannot be captured as a CUDA graph and runs as it is, slower: %s", reason)
            self._told = True
            return None
        finally:
            if time.perf_counter() - began > COMPILED_SECONDS:
                gc.collect()  # what compiling leaves knows the model and the pool, and itself in cycles

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function of tensors as a captured step is to call it."""
        made: Callable[..., Any] = torch.compile(function, dynamic=True) if self._compile else function
        return made

    def _captured(self, run: Callable[[], None], fused: bool) -> torch.cuda.CUDAGraph:
        with _one_at_a_time, torch.inference_mode(), ExitStack() as within:
            # A capture that fails leaves a stream of its own current: this puts the thread's back.
            within.enter_context(torch.cuda.stream(torch.cuda.current_stream()))
            if self._compile:
                within.enter_context(compiled(self._model, fused=fused))
            self._warm(run)
            self._memory = self._memory or torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            # Other threads may call CUDA meanwhile: other runtimes, or those that save sessions.
            with torch.cuda.graph(graph, pool=self._memory, capture_error_mode="thread_local"):
                run()
            return graph

    def _warm(self, run: Callable[[], None]) -> None:
        """Run twice on the side, so that all is compiled."""
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                run()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
