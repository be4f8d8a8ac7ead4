"""The objects behind a policy's names, and the trigger together with the text that it reads."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sfi_agent.boundaries import Trigger
from sfi_agent.contracts import AttentionKernel, Selector
from sfi_agent.errors import SettingError
from sfi_agent.policy import Policy
from sfi_agent.registry import Registry
from sfi_agent.runtime.draft import DraftLimit, DraftRecord
from sfi_agent.runtime.session import Session
from sfi_agent.runtime.text import TextStream
from sfi_agent.vocabulary import TokenizerVocabulary


@dataclass(frozen=True)
class Parts:
    """The objects that a policy names, made for one turn."""

    selector: Selector
    trigger: Trigger
    kernel: AttentionKernel
    limit: DraftLimit

    def continued(self, session: Session, policy: Policy) -> Parts:
        """These with the session's own selector, if an earlier turn or the store gave it such a one."""
        kept = session.selector_of(policy)
        return dataclasses.replace(self, selector=kept) if kept else self


class PartsMaker:
    """Makes the objects of each turn. Kernels, and what drafts were worth, are of all turns.

    Args:
        registry: knows what is registered.
        vocabulary: of the model.
        device: of the model.
        timed: whether the length of drafts may follow measured times, where a policy says so.
    """

    def __init__(
        self, registry: Registry, vocabulary: TokenizerVocabulary, device: torch.device, *, timed: bool
    ) -> None:
        self._registry, self._vocabulary, self._device, self._timed = registry, vocabulary, device, timed
        self._kernels: dict[str, AttentionKernel] = {}
        self._records: dict[tuple[Any, ...], DraftRecord] = {}

    def parts(self, policy: Policy) -> Parts:
        """What ``policy`` names, made for one turn.

        Raises:
            SettingError: something is not registered, not allowed, or cannot run here.
        """
        for name in policy.boundary_settings:
            if name not in policy.boundaries:
                raise SettingError(
                    f"boundary_settings: {name!r} is not among boundaries {list(policy.boundaries)}"
                )
        detectors = [
            self._registry.create("boundary", name, policy.boundary_settings.get(name))
            for name in policy.boundaries
        ]
        return Parts(
            selector=self._registry.create("selector", policy.selector, policy.selector_settings),
            trigger=Trigger(
                detectors,
                self._vocabulary,
                min_gap=policy.min_gap,
                max_interval=policy.max_interval,
                names=policy.boundaries,
            ),
            kernel=self.kernel(policy.kernel),
            limit=DraftLimit(
                policy.max_draft, policy.adaptive_draft and self._timed, self._record_of(policy)
            ),
        )

    def kernel(self, name: str) -> AttentionKernel:
        """The kernel of that name, one for all."""
        if name not in self._kernels:
            self._kernels[name] = self._registry.kernel(name, self._device)
        return self._kernels[name]

    def _record_of(self, policy: Policy) -> DraftRecord:
        drafting = (
            policy.kernel,
            policy.budget,
            policy.selector,
            repr(policy.selector_settings),
            policy.max_draft,
            policy.adaptive_draft,
        )
        return self._records.setdefault(drafting, DraftRecord())


@dataclass
class Boundaries:
    """Trigger and the text it needs, together, so that a draft can try tokens on a copy.

    Attributes:
        ending: whether a boundary ends a draft.
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
        return self.observe(token, logits) and self.ending

    def fork(self, *, ending: bool) -> Boundaries:
        """A copy that goes its own way."""
        return Boundaries(self.trigger.fork(), self.text.fork(), self.stop_tokens, ending)
