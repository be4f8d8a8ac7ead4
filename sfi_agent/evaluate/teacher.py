"""Reading given tokens instead of generated ones, step by step, outside any session."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sfi_agent.contracts import AttentionKernel
from sfi_agent.runtime.row import Row
from sfi_agent.runtime.runtime import Runtime
from sfi_agent.runtime.step import Step, Work


class Reader:
    """A row that is fed tokens one step at a time.

    Args:
        runtime: whose model reads.
        kernel: computes attention.
    """

    def __init__(self, runtime: Runtime, kernel: AttentionKernel, row: Row | None = None) -> None:
        self._runtime, self._kernel = runtime, kernel
        self.row = row or Row()

    def read(self, tokens: Sequence[int], *, wanted: int = 1, fast: bool = False) -> Tensor:
        """Logits ``[wanted, vocabulary]`` of the last of these tokens."""
        work = Work(tuple(tokens), fast=fast, wanted=wanted)
        step = Step([self.row], [work], [self._kernel], self._runtime.window)
        with self._runtime.exclusive():
            return torch.stack(list(step.run(self._runtime.model, self._runtime.device)[0].logits))

    def prefill(self, tokens: Sequence[int], chunk: int) -> Tensor:
        """Read a prompt in chunks; logits ``[1, vocabulary]`` of its last token.

        The first chunk of a prompt past the model's rotary limit passes it, as a turn's does.
        """
        limit = self._runtime.architecture.rotary_limit
        first = chunk if limit is None or len(tokens) <= limit else max(chunk, limit + 1)
        logits = self.read(tokens[:first])
        for start in range(first, len(tokens), chunk):
            logits = self.read(tokens[start : start + chunk])
        return logits

    def fork(self, length: int | None = None) -> Reader:
        """Another reader of the same past, or of its first ``length`` tokens (no queries, no memory)."""
        return Reader(self._runtime, self._kernel, Row(kv=self.row.kv.fork(length)))
