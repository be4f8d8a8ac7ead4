"""Everything about tools that depends on the model, in one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sfi_agent.nesting import refuse_deep
from sfi_agent.policy import Sampling
from sfi_agent.tools.family import PLAIN, THINKING, Family, family_of, knows_tools
from sfi_agent.tools.grammar import call_grammar
from sfi_agent.tools.harmony import OPENED
from sfi_agent.tools.parse import Parser, parser_of
from sfi_agent.tools.prompt import Message, with_schema, with_tools
from sfi_agent.tools.template import TemplateParser, has_template
from sfi_agent.tools.tool import NO_TOOLS, Tool, ToolChoice

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TAIL = 8
"""Tokens at the end of a prompt in which its template may have opened the reasoning."""


@dataclass(frozen=True)
class Ask:
    """What a turn asks beside its messages.

    Attributes:
        tools: that the prompt tells of.
        choice: which of them may or must be called.
        parallel: several calls in one answer; None: only where none is forced.
        schema: JSON schema that the answer follows; None: text.
        told: whether the prompt shows the schema, too.
        strict: True: a schema that the grammar cannot wholly enforce is an error; False: it is enforced
            as far as possible; None: an error only where the answer is forced.
        max_string: characters of a JSON string whose schema sets no limit.

    Raises:
        SettingError: the schema is too deep.
    """

    tools: tuple[Tool, ...] = ()
    choice: ToolChoice = NO_TOOLS
    parallel: bool | None = None
    schema: Mapping[str, Any] | None = None
    told: bool = True
    strict: bool | None = None
    max_string: int = 4096

    def __post_init__(self) -> None:
        refuse_deep(self.schema, "schema: ")


class Dialect:
    """How one model is told of tools and writes calls.

    Args:
        tokenizer: of the model, with its chat template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    @cached_property
    def family(self) -> Family:
        """Of the model's calls."""
        return family_of(self._tokenizer)

    @cached_property
    def knows_tools(self) -> bool:
        """Whether the chat template tells of tools itself."""
        return knows_tools(self._tokenizer)

    def prompt(
        self, messages: Sequence[Mapping[str, Any]], ask: Ask
    ) -> tuple[list[Message], list[dict[str, Any]]]:
        """Messages and tools for the chat template."""
        told = [*map(dict, messages)]
        if ask.schema is not None and ask.told:
            told = with_schema(told, ask.schema)
        if self.knows_tools:
            return told, [tool.openai for tool in ask.tools]
        return with_tools(told, ask.tools), []

    def sampling(self, sampling: Sampling, ask: Ask, prompt: Sequence[int]) -> Sampling:
        """``sampling`` with the grammar that ``ask`` needs.

        Args:
            sampling: of the turn.
            ask: what it asks.
            prompt: its token ids.
        """
        if not ask.choice.tools and ask.schema is None:
            return sampling.but(visible=self.family.delimiters if self.family.channels else THINKING)
        if self._templated(ask):
            added = self._tokenizer.added_tokens_decoder.values()
            return sampling.but(visible=tuple(token.content for token in added if token.special))
        forced = ask.choice.forced or ask.schema is not None
        grammar = call_grammar(
            ask.choice,
            self.family,
            self._tokenizer.get_added_vocab(),
            parallel=not ask.choice.forced if ask.parallel is None else ask.parallel,
            max_string=ask.max_string,
            lenient=not (forced if ask.strict is None else ask.strict),
            answer=ask.schema,
            thinking=self.opens_reasoning(prompt),
        )
        return sampling.but(grammar=grammar, visible=self.family.delimiters)

    def parser(self, ask: Ask, prompt: Sequence[int], *, results: bool = False) -> Parser:
        """A parser for the answer to ``prompt``, which has ``results`` of tools or not."""
        if self._templated(ask):
            return TemplateParser(
                self._tokenizer, str(self._tokenizer.decode(list(prompt))), ask.choice.tools
            )
        schemas = {tool.name: tool.parameters for tool in ask.choice.tools}
        thinking, forced = self.opens_reasoning(prompt), ask.choice.forced
        return parser_of(self.family, schemas, thinking=thinking, forced=forced, results=results)

    def _templated(self, ask: Ask) -> bool:
        """Whether transformers reads the answer: the model writes calls freely and in no way known here."""
        free = bool(ask.choice.tools) and not ask.choice.forced and ask.schema is None
        return free and self.family is PLAIN and has_template(self._tokenizer)

    def opens_reasoning(self, prompt: Sequence[int]) -> bool:
        """Whether the prompt ends inside the reasoning, as some templates have it."""
        return str(self._tokenizer.decode(list(prompt[-TAIL:]))).rstrip().endswith((THINKING[0], OPENED))
