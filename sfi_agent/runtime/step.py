"""One call of the model, shared by the rows of many sessions."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from sfi_agent.contracts import AttentionKernel, Draw, LayerSpec
from sfi_agent.errors import ModelError, RotaryLimitError
from sfi_agent.models.architecture import rotary_limit
from sfi_agent.runtime.linear import linears
from sfi_agent.runtime.row import Row

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Work(NamedTuple):
    """What one row asks of a step.

    Attributes:
        tokens: token ids to read, at the positions behind the row's context.
        fast: attend to the sparse memory instead of everything.
        wanted: logits of this many of the last tokens are returned.
        prefill: the tokens are prompt, not decoded.
        goes_on: unless what it finds ends the answer or calls for a slow step, the row will do the same with
            the most likely token next.
        slow_next: where it goes on, that token is read by a slow step, and not by another like this.
        refreshes: the sparse memory is chosen anew once it is done. Unless what it finds ends the answer or
            calls for another slow step, the row will do a fast one with the most likely token next.
        drafted: of a draft: tokens that are read again, with that which this step finds, where it is verified
            next; the last one is what this step reads.
        spare: one more token for a draft that is long enough already. It is made only while drafts of other
            rows are, since one pass verifies all of them: where one draft has come to a boundary after 3
            tokens, and another row's is to have 5, the first goes on for two. Once nobody else needs a step
            the loop is told :data:`NOT_MADE` in place of an outcome, and asks for the pass.
        draw: how a step that chooses tokens draws them; None: the most likely. Where tokens above are said to
            be the most likely, they are those that are drawn.
        then: what the row does next, whatever this one finds, as far as that is known; None: it is not.
    """

    tokens: tuple[int, ...]
    fast: bool = False
    wanted: int = 1
    prefill: bool = False
    goes_on: bool = False
    slow_next: bool = False
    refreshes: bool = False
    drafted: tuple[int, ...] = ()
    spare: bool = False
    draw: Draw | None = None
    then: Work | None = None


class Predicted(NamedTuple):
    """Logits ``[vocabulary]`` at one position, and the token that was chosen by them, if one was."""

    logits: Tensor
    best: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What a step gives back to one row.

    Attributes:
        logits: ``[vocabulary]`` at each of the wanted positions.
        seconds: of the step.
        best: the most likely token of each, or that drawn, where the step chose them; None: it did not.
        preparing: seconds before it in which it was compiled and captured, as a shape's first is.
        prompts: whether the step read some of a prompt, too, of this row or another.
    """

    logits: Sequence[Tensor]
    seconds: float
    best: Sequence[int] | None = None
    preparing: float = 0.0
    prompts: bool = False

    def __getitem__(self, index: int) -> Predicted:
        return Predicted(self.logits[index], None if self.best is None else self.best[index])

    def __iter__(self) -> Iterator[Predicted]:
        return (self[index] for index in range(len(self.logits)))


NOT_MADE = Outcome((), 0.0)
"""Of a step that was worth nothing any more."""


class Step:
    """The rows of one model call, their tokens laid end to end (no padding, no masks)."""

    def __init__(
        self, rows: Sequence[Row], works: Sequence[Work], kernels: Sequence[AttentionKernel], window: int
    ):
        self.window = window
        self._parts: list[tuple[Row, Work, AttentionKernel, slice]] = []
        self._attended: set[int] = set()
        start = 0
        for row, work, kernel in zip(rows, works, kernels, strict=True):
            end = start + len(work.tokens)
            self._parts.append((row, work, kernel, slice(start, end)))
            start = end

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, spec: LayerSpec) -> Tensor:
        """Attention of every row in one layer.

        Args:
            queries: ``[T, H, D]``, T the tokens of all rows.
            keys, values: ``[H_kv, T, D]`` and ``[H_kv, T, D_v]``.

        Returns:
            ``[T, H, D_v]``.

        Raises:
            ModelError: the layer attends a second time, which its one KV store cannot serve.
        """
        if layer in self._attended:
            raise ModelError(
                f"layer {layer} attends more than once in a step, which sfi-agent does not serve; "
                "use transformers directly"
            )
        self._attended.add(layer)
        outputs = [
            row.attend(layer, queries[part], keys[:, part], values[:, part], spec, kernel, work.fast)
            for row, work, kernel, part in self._parts
        ]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def run(self, model: PreTrainedModel, device: torch.device) -> list[Outcome]:
        """Call the model once; rows are committed only if that succeeds.

        Raises:
            ModelError: the model did not pass the step on to its attention.
            RotaryLimitError: the step would mix keys of two rotary frequencies.
        """
        began = time.perf_counter()
        stretched = self._stretched(rotary_limit(model.config.get_text_config(decoder=True)))
        for row, work, kernel, _ in self._parts:
            row.begin(len(work.tokens))
            row.enter(len(work.tokens), kernel, fast=work.fast)
        tokens = [token for _, work, _, _ in self._parts for token in work.tokens]
        positions = [row.kv.length + i for row, work, _, _ in self._parts for i in range(len(work.tokens))]
        wanted = [i for _, work, _, part in self._parts for i in range(part.stop - work.wanted, part.stop)]
        with torch.inference_mode(), linears(model, len(tokens)):
            output = model(
                input_ids=torch.tensor([tokens], device=device),
                position_ids=torch.tensor([positions], device=device),
                use_cache=False,
                logits_to_keep=torch.tensor(wanted or [0], device=device),
                sfi_step=self,
            )
        if not self._attended:
            raise unrouted(model)
        logits: Tensor = output.logits[0]
        return self._commit(logits.unbind(), stretched, time.perf_counter() - began)

    def _stretched(self, limit: int | None) -> bool:
        """Whether transformers takes the long rotary factors in this call: its longest row decides."""
        stretched = any(_passes(row, work, limit) for row, work, _, _ in self._parts)
        for row, work, _, _ in self._parts:
            if limit is not None and row.kv.length and row.kv.stretched != stretched:
                raise RotaryLimitError(row.kv.length, limit, len(work.tokens))
        return stretched

    def _commit(self, logits: Sequence[Tensor], stretched: bool, seconds: float) -> list[Outcome]:
        outcomes, start = [], 0
        prompts = any(work.prefill for _, work, _, _ in self._parts)
        for row, work, _, _ in self._parts:
            row.kv.stretched = stretched
            row.commit(len(work.tokens), fast=work.fast)
            outcomes.append(Outcome(logits[start : start + work.wanted], seconds, prompts=prompts))
            start += work.wanted
        return outcomes


def unrouted(model: PreTrainedModel) -> ModelError:
    """That a step reached none of the model's attention layers."""
    return ModelError(
        f"{type(model).__name__} did not route its attention through this runtime: its forward keeps "
        "keyword arguments from its layers, or its attention was switched since (runtime closed?)"
    )


def groups_of(rows: Sequence[Row], works: Sequence[Work], limit: int | None) -> list[list[int]]:
    """Which works may share a model call: those on one side of the model's rotary limit."""
    sides: dict[bool, list[int]] = {}
    for index, (row, work) in enumerate(zip(rows, works, strict=True)):
        sides.setdefault(_passes(row, work, limit), []).append(index)
    return list(sides.values())


def _passes(row: Row, work: Work, limit: int | None) -> bool:
    return limit is not None and row.kv.length + len(work.tokens) > limit
