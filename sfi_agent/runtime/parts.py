"""The objects behind a policy's names, and the trigger together with the text that it reads."""

from __future__ import annotations

from dataclasses import dataclass

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
    """Trigger and the text it needs, together, so that a draft can try tokens on a copy."""

    trigger: Trigger
    text: TextStream
    stop_tokens: frozenset[int]

    def observe(self, token: int) -> bool:
        """Whether the step that reads ``token`` should be slow."""
        return self.trigger.observe(token, self.text.push(token) if self.trigger.needs_text else "")

    def ends(self, token: int) -> bool:
        """Whether a draft should end with ``token``."""
        return self.observe(token) or token in self.stop_tokens

    def fork(self) -> Boundaries:
        """A copy that goes its own way."""
        return Boundaries(self.trigger.fork(), self.text.fork(), self.stop_tokens)
