"""The objects behind a policy's names, and the trigger together with the text that it reads."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sfi_agent.boundaries import Trigger
from sfi_agent.contracts import AttentionKernel, Selector
from sfi_agent.runtime.draft import DraftLimit
from sfi_agent.runtime.text import TextStream


@dataclass(frozen=True)
class Parts:
    """The objects that a policy names, made for one turn."""

    selector: Selector
    trigger: Trigger
    kernel: AttentionKernel
    limit: DraftLimit


@dataclass
class Boundaries:
    """Trigger and the text it needs, together, so that a draft can try tokens on a copy.

    Attributes:
        ending: whether a boundary ends a draft; a stop token always does.
    """

    trigger: Trigger
    text: TextStream
    stop_tokens: frozenset[int]
    ending: bool = True

    def observe(self, token: int, logits: Tensor | None = None) -> bool:
        """Whether the step that reads ``token``, drawn from ``logits``, should be slow."""
        text = self.text.push(token) if self.trigger.needs_text else ""
        return self.trigger.observe(token, text, logits)

    def ends(self, token: int, logits: Tensor) -> bool:
        """Whether a draft should end with ``token``."""
        boundary = self.observe(token, logits)
        return (boundary and self.ending) or token in self.stop_tokens

    def fork(self, *, ending: bool) -> Boundaries:
        """A copy that goes its own way."""
        return Boundaries(self.trigger.fork(), self.text.fork(), self.stop_tokens, ending)
