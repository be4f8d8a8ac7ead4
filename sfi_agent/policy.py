"""What a user may choose for a turn: the policy and the sampling settings."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self, TypedDict

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from sfi_agent.errors import SettingError, UnknownNameError
from sfi_agent.nesting import refuse_deep

Mode = Literal["dense", "sfi", "verified"]
MODES: tuple[Mode, ...] = ("dense", "sfi", "verified")


class _Settings(BaseModel):
    """A frozen pydantic model whose errors are one line and list the valid names."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, /, **values: Any) -> None:
        """Validate ``values``; raise SettingError or UnknownNameError in one line."""
        for name in values:
            if name not in type(self).model_fields:
                raise UnknownNameError("setting", name, type(self).model_fields)
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise SettingError(one_line(error)) from None

    # Where pydantic validates a model within another it goes past this, as past BaseModel's own.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def of(cls, /, **values: Any) -> Self:
        """As the constructor, for ``values`` whose types a type checker does not know."""
        return cls(**values)

    def but(self, /, **values: Any) -> Self:
        """A copy with some settings changed, validated again; None leaves a setting as it is."""
        changed = {name: value for name, value in values.items() if value is not None}
        return type(self).of(**{**dict(self), **changed})


_shown = reprlib.Repr()
"""Of what may be long, or so deep that Python's own way ends in an error, its beginning."""
_shown.maxstring = _shown.maxother = 200
_shown.maxlevel = _shown.maxdict = _shown.maxlist = _shown.maxtuple = 12


def one_line(error: ValidationError) -> str:
    """``setting: what is wrong (given ...)`` for the first problem pydantic found."""
    problem = error.errors()[0]
    where = ".".join(
        str(part) for part in problem["loc"] if not str(part).startswith(("function", "constrained"))
    )
    message = problem["msg"].removeprefix("Value error, ")
    return f"{where or 'setting'}: {message} (given {_shown.repr(problem['input'])})"


class Policy(_Settings):
    """How the tokens of a turn are decoded: mode, selector, detectors, kernel, budget.

    Attributes:
        mode: ``dense``, ``sfi`` (as in the paper) or ``verified``.
        selector: registered selector; ``selector_settings`` are its fields.
        boundaries: registered boundary detectors, any of which may call for a slow step;
            ``boundary_settings`` maps a detector's name to its fields.
        kernel: registered attention kernel, or ``auto``: of those that run on the device
            the one of highest priority.
        budget: positions in sparse memory at a refresh, as a count or as a fraction of the context
            in (0, 1]. Tokens that follow the refresh are remembered on top.
        dense_below: contexts of fewer tokens stay dense, whatever the budget.
        sink: first positions always kept.
        recent: latest positions kept at a refresh, at most half of the budget.
        min_gap: steps after a slow step in which boundaries are ignored.
        max_interval: fast steps after which a slow step comes in any case.
        max_draft: longest draft in verified mode, tokens.
        adaptive_draft: let the draft follow acceptance and the measured cost of steps; when off,
            every draft has ``max_draft`` tokens unless a boundary cuts it.
        repair: ``sfi`` mode only: a slow step reads all tokens since the last again and rewrites
            their KV; off, what fast steps wrote stays, as in the paper.
        prefill_chunk: prompt tokens computed in one step, which bounds prefill memory; on a GPU a step with
            more than 512 of them is not captured, and waits for the host.
    """

    mode: Mode = "sfi"
    selector: str = "index"
    selector_settings: dict[str, Any] = Field(default_factory=dict)
    boundaries: tuple[str, ...] = ("tool_call",)
    boundary_settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    kernel: str = "auto"
    budget: int | float = 0.125
    dense_below: int = Field(default=512, ge=0)
    sink: int = Field(default=4, ge=0)
    recent: int = Field(default=64, ge=1)
    min_gap: int = Field(default=16, ge=0)
    max_interval: int = Field(default=128, ge=1)
    max_draft: int = Field(default=32, ge=1, le=64)
    adaptive_draft: bool = True
    repair: bool = True
    prefill_chunk: int = Field(default=512, ge=1)

    @field_validator("mode", mode="before")
    @classmethod
    def _known_mode(cls, mode: Any) -> Any:
        if mode not in MODES:
            raise ValueError(f"must be one of {', '.join(MODES)}")
        return mode

    @field_validator("budget", mode="before")
    @classmethod
    def _usable_budget(cls, budget: Any) -> int | float:
        allowed = "must be a number of positions from 1 on, or a fraction of the context in (0, 1]"
        if isinstance(budget, bool) or not isinstance(budget, int | float):
            raise ValueError(allowed)
        if (isinstance(budget, int) and budget < 1) or (isinstance(budget, float) and not 0 < budget <= 1):
            raise ValueError(allowed)
        return budget

    def but(self, /, **values: Any) -> Self:
        """A copy with some settings changed, validated again; None leaves a setting as it is.

        The settings of a selector or detector that is no longer named are left out.
        """
        if values.get("selector") not in (None, self.selector) and values.get("selector_settings") is None:
            values["selector_settings"] = {}
        if (named := values.get("boundaries")) is not None and values.get("boundary_settings") is None:
            values["boundary_settings"] = {
                name: given for name, given in self.boundary_settings.items() if name in named
            }
        return super().but(**values)

    def positions(self, length: int) -> int:
        """The budget at a context of ``length`` tokens, in positions (at least 1, at most length)."""
        wanted = self.budget if isinstance(self.budget, int) else round(self.budget * length)
        return max(1, min(length, wanted))


class SchemaLimits(TypedDict):
    """What bounds a schema; as in :class:`Grammar`."""

    max_string: int
    max_items: int
    lenient: bool


class Grammar(_Settings):
    """What an answer must look like: exactly one of ``json_schema``, ``regex`` and ``lark``.

    Attributes:
        json_schema: the answer is JSON on one line that this schema allows. Properties come in the schema's
            order, and only declared ones where it declares any and allows no others; where it does allow
            them, the required ones come first.
        regex: the whole answer matches this regular expression.
        lark: a grammar in llguidance's Lark dialect, with a rule ``start``.
        max_string: characters of a JSON string whose schema sets no limit, at most; ``max_items`` likewise
            for arrays and for the free keys of objects. They end the loops into which small models fall.
        lenient: schema keywords that the grammar cannot enforce (``uniqueItems``, ``not``) are left out;
            otherwise they are an error.
    """

    json_schema: dict[str, Any] | None = None
    regex: str | None = None
    lark: str | None = None
    max_string: int = Field(default=4096, ge=1)
    max_items: int = Field(default=64, ge=1)
    lenient: bool = False

    @field_validator("json_schema", mode="before")
    @classmethod
    def _readable(cls, schema: Any) -> Any:
        refuse_deep(schema)
        return schema

    @property
    def limits(self) -> SchemaLimits:
        """What bounds a schema, by name."""
        return {"max_string": self.max_string, "max_items": self.max_items, "lenient": self.lenient}

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if sum(form is not None for form in (self.json_schema, self.regex, self.lark)) != 1:
            raise ValueError("needs exactly one of json_schema, regex and lark")
        return self


class Sampling(_Settings):
    """How the next token is drawn, and when to stop.

    Attributes:
        max_new_tokens: tokens to generate at most; None: up to the model's window.
        temperature: 0 is greedy.
        top_p: keep the smallest set of tokens with this much probability.
        top_k: keep this many tokens; None: all.
        repetition_penalty: above 1 discourages tokens already in the context.
        seed: the same seed, prompt and settings give the same tokens; None draws one. Beside other turns a
            16-bit model may round differently (``Runtime(deterministic=True)``: it does not).
        stop: strings that end the turn; not part of the text.
        ignore_eos: go on after the model's own end tokens (for measurements).
        grammar: what the whole answer must look like; None: free. An answer that ``max_new_tokens`` or a
            stop string cuts is the beginning of one.
        visible: special tokens that appear in the text, which otherwise has none: delimiters of tool calls.
    """

    max_new_tokens: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    top_k: int | None = Field(default=None, ge=1)
    repetition_penalty: float = Field(default=1.0, gt=0.0, allow_inf_nan=False)
    seed: int | None = Field(default=None, ge=0)
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    grammar: Grammar | None = None
    visible: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _a_grammar_ends(self) -> Self:
        if self.grammar and self.ignore_eos:
            raise ValueError("an answer with a grammar ends where its grammar does; leave ignore_eos off")
        return self

    @field_validator("stop", mode="before")
    @classmethod
    def _no_empty_stop(cls, stop: Any) -> Any:
        if not isinstance(stop, str | Sequence | None):
            raise ValueError("must be a string or a sequence of strings")
        stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
        if any(not text for text in stops):
            raise ValueError("a stop string must not be empty")
        return stops


def parse_budget(text: str) -> int | float:
    """A budget as typed: ``512`` is positions, ``0.125`` (with a point) a fraction.

    Raises:
        SettingError: neither.
    """
    try:
        budget = float(text) if "." in text or "e" in text.lower() else int(text)
    except ValueError:
        raise SettingError(
            "budget: must be a number of positions (512) or a fraction of the context (0.125) "
            f"(given {text!r})"
        ) from None
    return Policy.of(budget=budget).budget
