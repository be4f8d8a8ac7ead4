"""What every kind of measurement has in common."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import TypeAdapter

from sfi_agent.errors import PromptError
from sfi_agent.evaluate.workloads import WORKLOADS
from sfi_agent.evaluate.workloads import workload as standard_workload
from sfi_agent.experiments.grid import Case
from sfi_agent.experiments.page import Page
from sfi_agent.progress import Progress
from sfi_agent.runtime.runtime import Runtime

Shared = TypeVar("Shared")
R = TypeVar("R")


@dataclass(frozen=True)
class Reading:
    """A workload as a model reads it.

    Attributes:
        name: of the workload.
        tokens: token ids, context and what follows.
        context: tokens of the former.
        seed: of what is drawn.
    """

    name: str
    tokens: tuple[int, ...]
    context: int
    seed: int = 0

    @property
    def decode(self) -> int:
        """Tokens that follow the context."""
        return len(self.tokens) - self.context

    @property
    def digest(self) -> str:
        """Of the tokens."""
        return hashlib.sha256(json.dumps(self.tokens).encode()).hexdigest()[:16]


class Measurement(ABC, Generic[Shared, R]):
    """Measures one policy on one workload.

    Attributes:
        kind: its name in a page's front matter.
        version: of its code; a higher one makes earlier results stale. Raise it with any change that
            could change a number.
        result: frozen dataclass of what it gives.
        workloads: that it knows by name.
        own_texts: whether it also reads texts of the page's own.
        plots: that it has.
        axes: quantities at which families can be compared, and how a table calls them.
        samples: whether it draws answers at the temperature of a case.
        answers: whether it has turns answered; otherwise a text is read and nothing decoded.
    """

    kind: ClassVar[str]
    version: ClassVar[int]
    result: ClassVar[type[Any]]
    workloads: ClassVar[tuple[str, ...]] = tuple(WORKLOADS)
    own_texts: ClassVar[bool] = True
    plots: ClassVar[tuple[str, ...]]
    axes: ClassVar[dict[str, str]] = {}
    samples: ClassVar[bool] = False
    answers: ClassVar[bool] = False

    @classmethod
    def longest(cls, page: Page) -> int:
        """Tokens of the longest text that the page has a model read."""
        return page.context + page.decode

    def read(self, runtime: Runtime, page: Page, workload: str, text: str | None) -> Reading:
        """What the page's ``workload`` is to this model; ``text`` is that of a file of the page's own.

        Raises:
            UnknownNameError: there is no such workload.
            PromptError: it is too short for the page, or too long for the model.
        """
        wanted = self.longest(page)
        if text is not None:
            tokens = runtime.encode(text, raw=True)
        else:
            tokens = standard_workload(workload, runtime, wanted, seed=page.seed)
        if len(tokens) < wanted:
            raise PromptError(f"{workload} has {len(tokens)} tokens; context and decode need {wanted}")
        return Reading(workload, tuple(tokens[:wanted]), page.context, page.seed)

    @abstractmethod
    def prepare(self, runtime: Runtime, reading: Reading, on_progress: Progress) -> Shared:
        """What the policies measured on one workload share, computed once."""

    @abstractmethod
    def measure(
        self, runtime: Runtime, reading: Reading, case: Case, shared: Shared, on_progress: Progress
    ) -> R:
        """Measure.

        Args:
            runtime: the model.
            reading: the workload.
            case: the policy, of which the settings that concern this measurement apply.
            shared: from :meth:`prepare`, of this workload.
            on_progress: called with (done, total) in units of the measurement's own.
        """

    @classmethod
    def parse(cls, values: dict[str, Any]) -> R:
        """The result that a record holds as plain values.

        Raises:
            pydantic.ValidationError: they are another kind's, or an earlier version's.
        """
        parsed: R = TypeAdapter(cls.result).validate_python(values)
        return parsed
