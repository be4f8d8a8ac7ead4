"""Constraints by llguidance: its masks are packed bits, filled through numpy (its torch module compiles)."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sfi_agent.errors import GrammarError
from sfi_agent.grammar.bounds import enforced
from sfi_agent.grammar.constraint import Constraint
from sfi_agent.grammar.depth import on_deep_stack, refuse_fatal
from sfi_agent.grammar.numbers import LENIENT
from sfi_agent.policy import Grammar

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer
    from transformers import PreTrainedTokenizerBase

_LISTING = re.compile(r"\n *1 \| ")
UNREADABLE = ("regex parse error", "lookarounds not supported")
"""What llguidance says of a pattern that it does not take."""
KEPT = 64
"""Compiled grammars kept for a model, those used latest: an agent's tools seldom change."""


class Grammars:
    """Compiles grammars for one tokenizer; safe from threads.

    Args:
        tokenizer: fast (of the tokenizers library).
        size: of the model's vocabulary, padding included.
        stop_tokens: that end a turn.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, size: int, stop_tokens: frozenset[int]) -> None:
        self._tokenizer, self._size = tokenizer, max(size, len(tokenizer))
        self._stops = sorted(stop_tokens)
        self._inner: LLTokenizer | None = None
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()
        self._guard = threading.Lock()

    def constraint(self, grammar: Grammar) -> Constraint:
        """A constraint for one turn.

        Raises:
            GrammarError: llguidance is not installed, cannot serve this tokenizer, or cannot compile the
                grammar, for which it says why.
        """
        key = grammar.model_dump_json()
        with self._guard:
            if key not in self._compiled:
                self._compiled[key] = self._compile(grammar)
            self._compiled.move_to_end(key)
            while len(self._compiled) > KEPT:
                self._compiled.popitem(last=False)
            return GuidanceConstraint(self._compiled[key].deep_copy(), self._size, self._stops)

    def _compile(self, grammar: Grammar) -> LLMatcher:
        tokenizer = self._tokens()
        from llguidance import LLMatcher

        source = _source(grammar)
        matcher = on_deep_stack(lambda: LLMatcher(tokenizer, source, log_level=0))
        if matcher.is_error():
            raise GrammarError(f"the grammar cannot be used: {_line(matcher.get_error())}")
        return matcher

    def _tokens(self) -> LLTokenizer:
        if self._inner is None:
            try:
                from llguidance.hf import from_tokenizer
            except ImportError:
                raise GrammarError(
                    "a grammar needs llguidance, which is not installed: pip install 'sfi-agent[grammar]'"
                ) from None
            if not self._stops:
                raise GrammarError("a grammar needs an end token, which this model does not declare")
            try:
                self._inner = from_tokenizer(
                    self._tokenizer,  # type: ignore[arg-type]  # it checks the class itself
                    n_vocab=self._size,
                    eos_token=list(self._stops),
                )
            except ValueError as error:
                raise GrammarError(f"llguidance cannot serve this tokenizer: {_line(str(error))}") from None
        return self._inner


class GuidanceConstraint(Constraint):
    """Follows the answers it is asked about by going back to what they share with the last one.

    Args:
        matcher: fresh, and its own.
        size: of the masks.
        stops: end tokens.
    """

    def __init__(self, matcher: LLMatcher, size: int, stops: Sequence[int]) -> None:
        self._fresh, self._matcher = matcher, matcher.deep_copy()
        self._stops = list(stops)
        self._read: list[int] = []
        self._size = size
        self._bits = np.empty((1, (size + 31) // 32), dtype=np.int32)

    def allowed(self, answer: Sequence[int]) -> np.ndarray[Any, np.dtype[np.bool_]]:
        self._follow(list(answer))
        if self._matcher.is_stopped():
            mask = np.zeros(self._size, dtype=np.bool_)
            mask[self._stops] = True
            return mask
        from llguidance.numpy import fill_next_token_bitmask

        fill_next_token_bitmask(self._matcher, self._bits)
        self._check()
        bits = np.unpackbits(self._bits.view(np.uint8), count=self._size, bitorder="little")
        return bits.view(np.bool_)

    def _follow(self, answer: list[int]) -> None:
        common = _common(self._read, answer)
        if common < len(self._read) and not self._matcher.rollback(len(self._read) - common):
            self._matcher, common = self._fresh.deep_copy(), 0
        if common < len(answer):
            self._matcher.consume_tokens(answer[common:])
        self._read = answer
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            reason, self._matcher, self._read = self._matcher.get_error(), self._fresh.deep_copy(), []
            raise GrammarError(f"the answer cannot follow its grammar: {_line(reason)}")


def _source(grammar: Grammar) -> str:
    from llguidance import LLMatcher

    if grammar.json_schema is not None:
        schema = enforced(grammar.json_schema, **grammar.limits)
        refuse_fatal(f"%json {schema}")
        return LLMatcher.grammar_from_json_schema(schema)
    if grammar.regex is not None:
        return LLMatcher.grammar_from_regex(grammar.regex)
    refuse_fatal(grammar.lark or "")
    return LLMatcher.grammar_from_lark(grammar.lark or "")


def _common(left: list[int], right: list[int]) -> int:
    """Length of the longest common prefix; nearly always all of ``left``."""
    if right[: len(left)] == left:
        return len(left)
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), len(right))


def _line(message: str) -> str:
    """llguidance's messages in one line, without the grammar and the state it adds for its developers."""
    said = " ".join(_LISTING.split(message.partition("<state>")[0])[0].split())
    if "Unimplemented keys" in said:
        said += f"; leave them out of the schema, or have them ignored ({LENIENT})"
    if any(refused in said for refused in UNREADABLE) and "invalid regex" not in said:  # else not of a schema
        said += f"; leave the pattern out of the schema, or have it ignored ({LENIENT})"
    if "min/maxProperties" in said:
        said = (
            "keys cannot be counted where declared ones may be left out; beside or in an anyOf or oneOf that "
            "asks for required keys, declare these in properties"
        )
    if "coerce_one_of" in said:
        said = f"oneOf cannot be held where two alternatives overlap; write anyOf, or have it so ({LENIENT})"
    return said
