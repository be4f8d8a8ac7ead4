"""What an experiment's front matter declares."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from sfi_agent.errors import SettingError, UnknownNameError
from sfi_agent.experiments.document import Document
from sfi_agent.policy import one_line

Dtype = Literal["bfloat16", "float16", "float32"]


class Page(BaseModel):
    """One experiment.

    Attributes:
        question: what the page asks, in one sentence.
        model: embedded model, folder, ``.gguf`` file or hub name.
        dtype: of the model; it is part of the question, so a run does not choose it.
        measure: kind of measurement.
        workloads: texts to read: ``prose``, ``code``, ``json``, ``chat``, or a ``.txt`` file beside the page;
            of kind ``retrieval``, tasks.
        context: tokens read densely first; of kind ``retrieval``, the longest context, the answer included.
        decode: tokens then measured; answers of kind ``retrieval`` have a length of their own.
        samples: of kind ``retrieval``: questions of each task at each length.
        seed: of generated workloads.
        base: policy settings that all policies share.
        policies: families of policies by label. A family is a mapping of policy settings, of which
            ``policy`` may name a registered policy to start from (what ``base`` sets replaces its settings
            too) and ``grid`` varies settings within the family; or just the name of a registered policy.
            Of kind ``drafts``, ``temperature`` stands
            among the settings: answers are drawn at it, default 0, greedily.
        grid: settings varied within every family: a list of values each, all combinations are run.
            Without ``policies``, the values of its first setting are the families.
        plots: drawn from the results; see the kind of measurement for those it has.
        compare: a measured quantity and the values at which families are compared, interpolated.
        plugins: Python files beside the page to register for the run, in addition to the page's own
            blocks marked ``python file=NAME``.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    question: str = Field(min_length=1)
    model: str = "smollm2-135m"
    dtype: Dtype = "float32"
    measure: str = "fidelity"
    workloads: tuple[str, ...] = Field(min_length=1)
    context: int = Field(ge=1)
    decode: int = Field(default=256, ge=1)
    samples: int = Field(default=1, ge=1)
    seed: int = Field(default=0, ge=0)
    base: dict[str, Any] = Field(default_factory=dict)
    policies: dict[str, str | dict[str, Any] | None] = Field(default_factory=dict)
    grid: dict[str, list[Any]] = Field(default_factory=dict)
    plots: tuple[str, ...] = ()
    compare: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    plugins: tuple[str, ...] = ()

    @field_validator("workloads", "plots", "plugins")
    @classmethod
    def _once_each(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError("a name is given twice")
        return names

    @field_validator("grid")
    @classmethod
    def _some_values(cls, grid: dict[str, list[Any]]) -> dict[str, list[Any]]:
        if empty := [name for name, values in grid.items() if not values]:
            raise ValueError(f"{empty[0]} has no values")
        return grid

    @classmethod
    def of(cls, document: Document) -> Self:
        """The page's front matter, validated.

        Raises:
            SettingError: in one line that begins with the page's path.
        """
        values = document.front_matter()
        for key in values:
            if key not in cls.model_fields:
                unknown = UnknownNameError("key", str(key), cls.model_fields)
                raise SettingError(f"{document.path}: {unknown}")
        try:
            return cls(**values)
        except ValidationError as error:
            raise SettingError(f"{document.path}: {one_line(error)}") from None


def read_page(path: Path) -> tuple[Document, Page]:
    """A page's text and what its front matter declares."""
    document = Document.read(path)
    return document, Page.of(document)
