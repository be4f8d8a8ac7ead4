"""The grammar of an answer that calls tools, or may."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from sfi_agent.errors import GrammarError, SettingError
from sfi_agent.grammar.bounds import bounded, enforced
from sfi_agent.policy import Grammar, SchemaLimits
from sfi_agent.tools import calls, harmony
from sfi_agent.tools.family import THINKING, Family
from sfi_agent.tools.tagged import CLOSING, NAME, options_of, types_of, values_of, written
from sfi_agent.tools.tool import Tool, ToolChoice

MOST_CALLS = 16
"""Calls in one answer, at most."""
UNHELD = ("pattern", "format", "not", "if")
"""What text in tags may break."""


def call_grammar(
    choice: ToolChoice,
    family: Family,
    added: Mapping[str, int],
    *,
    parallel: bool,
    max_string: int = 4096,
    max_items: int = 64,
    lenient: bool = False,
    answer: Mapping[str, Any] | None = None,
    thinking: bool = False,
) -> Grammar:
    """The grammar for one answer.

    Forced, the answer is a call from its first token to its last. Otherwise it is text in which the
    grammar takes hold where the model opens a call: each one opened is valid, and none need be.

    Args:
        choice: the tools, at least one, and whether a call is forced.
        family: how calls are written.
        added: ids of the tokens that the tokenizer adds to its vocabulary; delimiters among them are
            one token, and no other spelling of them opens a call that the model meant.
        parallel: allow several calls.
        max_string, max_items, lenient: as in :class:`sfi_agent.policy.Grammar`.
        answer: JSON schema that an answer without calls must follow; None: text, or nothing where a
            call is forced.
        thinking: the prompt already opened the reasoning, so the answer begins with its end.

    Raises:
        SettingError: neither a tool nor a schema.
    """
    if not choice.tools and answer is None:
        raise SettingError("tools: a grammar needs at least one tool or a schema")
    limits = SchemaLimits(max_string=max_string, max_items=max_items, lenient=lenient)
    lines = _Lines(choice, family, added, limits)
    if choice.tools:
        lines.calls(parallel)
    if choice.forced or answer is not None:
        options = ["calls"] * bool(choice.tools) + ["answer"] * (answer is not None and not choice.forced)
        lines.add("start", f"{lines.thought() if thinking else ''}({' | '.join(options)})")
        if answer is not None:
            lines.json("answer", answer)
    else:
        lines.free(parallel)
    return Grammar.of(lark=str(lines), max_string=max_string, max_items=max_items, lenient=lenient)


class _Lines:
    """Rules, in the order in which they are added."""

    def __init__(
        self, choice: ToolChoice, family: Family, added: Mapping[str, int], limits: SchemaLimits
    ) -> None:
        self._choice, self._family, self._added, self._limits = choice, family, added, limits
        self._rules: list[str] = []

    def __str__(self) -> str:
        return "\n".join(["%llguidance {}", *self._rules, ""])

    def add(self, name: str, body: str) -> None:
        self._rules.append(f"{name}: {body}")

    def json(self, name: str, schema: Mapping[str, Any]) -> None:
        self.add(name, f"%json {enforced(schema, **self._limits)}")

    def calls(self, parallel: bool) -> None:
        """``calls``: from the first delimiter to the last; ``rest``: what follows the first of them."""
        family, pad = self._family, _quoted(self._family.padding)
        if family.channels:
            self._header()
        opening = self._delimiter(family.opens[0] if family.opens else "")
        closing = self._delimiter(family.closes)
        for index, tool in enumerate(self._choice.tools):
            self._call(index, tool)
        self.add("call", " | ".join(f"call_{index}" for index in range(len(self._choice.tools))))
        first = _joined(pad, "call", pad, closing)
        separator = _quoted(", " if family.brackets else family.separator)
        again = _joined(separator, opening, first) if family.repeats else _joined(separator, "call")
        more = f"({again}){{0,{MOST_CALLS - 1}}}" if parallel else ""
        rest = _joined(first, more)
        if family.channels:  # the call ends the answer
            rest = "call"
            opening = _joined(self._delimiter("<|channel|>"), _quoted("commentary to=functions."))
        if family.brackets:
            listed = _joined(_quoted("["), "call", more, _quoted("]"))
            rest = listed if not family.bare else f"call | {listed}" if parallel else "call"
        self.add("rest", rest)
        self.add("calls", "rest" if family.bare else _joined(opening, "rest"))

    def _call(self, index: int, tool: Tool) -> None:
        """``call_<index>``: a call of this tool, without delimiters."""
        family, name, arguments = self._family, tool.name, f"arguments_{index}"
        if family.tagged:
            self._tagged(index, tool)
            return
        self._refuse_name(name)
        self.json(arguments, tool.parameters)
        if family.channels:
            body = _joined(_quoted(name), "header", arguments)
        elif family.named:
            body = _joined(_quoted(name), self._delimiter(family.named), arguments)
        else:
            before = f'{{"name": {json.dumps(name, ensure_ascii=False)}, "{family.arguments}": '
            body = _joined(_quoted(before), arguments, _quoted("}"))
        self.add(f"call_{index}", body)

    def _refuse_name(self, name: str) -> None:
        """Raise what is wrong with a name that could not be read as it is written."""
        held, told = r"(.|\n)+", "that is not empty"
        if self._family.channels:
            held, told = harmony.NAME, "without white space and '<'"
        elif self._family.named:
            held, told = calls.NAME, "without '{' and white space around it"
        if not re.fullmatch(held, name):
            raise GrammarError(f"tools: this model cannot write the name {name!r}; give one {told}")

    def _header(self) -> None:
        """``header``: from a function's name to what it is given; ``calls``: with what is before."""
        channel, message = self._delimiter("<|channel|>"), self._delimiter("<|message|>")
        kind = _joined(self._delimiter("<|constrain|>"), _quoted("json"))
        self.add("header", f'({channel} "commentary")? " "? ({kind})? {message}')

    def _tagged(self, index: int, tool: Tool) -> None:
        """A parameter is text where it is a string, JSON where it is not."""
        bounded(tool.parameters, **self._limits)  # what is no schema is refused before it is read
        for name in (tool.name, *tool.parameters.get("properties", ())):
            if not re.fullmatch(NAME, name):
                raise GrammarError(
                    f"tools: this model writes names in tags, which cannot hold {name!r}; give one without "
                    "'>' and line breaks"
                )
        schema, parts = tool.parameters, [_quoted(f"<function={tool.name}>\n")]
        for number, (key, value) in enumerate(schema.get("properties", {}).items()):
            name = f"parameter_{index}_{number}"
            self._parameter(name, key, value, schema)
            parts.append(name if key in schema.get("required", ()) else f"{name}?")
        self.add(f"call_{index}", _joined(*parts, _quoted("</function>")))

    def _parameter(self, name: str, key: str, schema: Any, whole: Mapping[str, Any]) -> None:
        opening, closing = _quoted(f"<parameter={key}>\n"), _quoted(CLOSING)
        shared = {part: found for part, found in whole.items() if part in ("$defs", "definitions")}
        options = options_of(schema, whole)
        if not any("string" in types_of(option) for option in options):
            self.json(f"{name}_json", {**schema, **shared} if isinstance(schema, Mapping) else {})
            self.add(name, _joined(opening, f"{name}_json", closing))
            return
        texts = [written(value) for option in options for value in values_of(option) or ()]
        free = [option for option in options if values_of(option) is None]
        strings = [option for option in free if "string" in types_of(option)]
        if strings:  # any other value would be read as text
            texts += ["null"] * any("null" in types_of(option) for option in free)
            lengths = [self._length(key, option) for option in strings]
            self.add(f"{name}_text[lazy]", rf"/({_regex(texts, lengths)})\n<\/parameter>\n/")
            self.add(name, _joined(opening, f"{name}_text"))
            return
        if free:
            self.json(f"{name}_json", {"anyOf": free, **shared})
        if any((text + CLOSING).index(CLOSING) < len(text) for text in texts):
            raise GrammarError(
                f"tools: this model writes parameters as tags, and a value of {key!r} has the end of one in "
                f"it; leave out what {CLOSING!r} is in"
            )
        choices = [*map(_quoted, texts), *([f"{name}_json"] if free else [])]
        self.add(name, _joined(opening, f"({' | '.join(choices)})", closing))

    def _length(self, key: str, option: Mapping[str, Any]) -> tuple[int, int]:
        """Characters of a parameter that is text."""
        if not self._limits["lenient"] and (unheld := [name for name in UNHELD if name in option]):
            raise SettingError(
                f"tools: this model writes parameters as tags, where no grammar holds {key!r} to its "
                f"{unheld[0]!r}; leave that out, or pass strict=False"
            )
        least = option.get("minLength", 0)
        return least, max(least, option.get("maxLength", self._limits["max_string"]))

    def free(self, parallel: bool) -> None:
        """``start`` for text that may open calls. A trigger that is a token is never part of text; one
        that is not is a lazy lexeme, which ends as soon as the trigger is complete."""
        family = self._family
        self.add("TEXT", r"/(.|\n)*/")
        opened = [f"{self._delimiter(opens)} rest" for opens in family.opens if opens in self._added]
        others = sorted(id for text, id in self._added.items() if text not in family.opens)
        marks = [f"<[{','.join(map(str, others))}]>"] if others else []  # no text: reasoning, ...
        if family.bare:
            self.add("FIRST", r"/\s*([^{\[\s](.|\n)*)?/")
            self.add("LEAD", r"/\s{1,4}/")
            first = "LEAD? calls | FIRST"
        else:
            for index, opens in enumerate(family.opens):
                self.add(f"opening_{index}[lazy]", f"TEXT {_quoted(opens)}")
            opened = [*(f"opening_{index} rest" for index in range(len(family.opens))), *opened]
            first = "TEXT"
        if parallel or not opened:
            self.add("start", _joined(first, _any_of([f"{part} TEXT" for part in (*opened, *marks)])))
            return
        opens = "|".join(re.escape(text).replace("/", r"\/") for text in family.opens)
        self.add("REST", rf"/(.|\n)*/ & ~/(.|\n)*({opens})(.|\n)*/")  # behind the only call
        before, behind = (_any_of([f"{mark} {text}" for mark in marks]) for text in ("TEXT", "REST"))
        self.add("start", f"{first} {before} (({' | '.join(opened)}) REST {behind})?")

    def thought(self) -> str:
        """Reasoning up to its end, and a little white space, or the header of the next message."""
        ends = "<|end|>" if self._family.channels else THINKING[1]
        kind = "" if ends in self._added else "[lazy]"
        self.add(f"thought{kind}", f"THOUGHT {self._delimiter(ends)}")
        self.add("THOUGHT", r"/(.|\n)*/")
        if self._family.channels:
            return f'thought {self._delimiter("<|start|>")} "assistant" '
        self.add("SPACE", r"/\s{1,2}/")
        return "thought SPACE? "

    def _delimiter(self, text: str) -> str:
        return f"<[{self._added[text]}]>" if text in self._added else _quoted(text)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if text else ""


def _regex(texts: Sequence[str], lengths: Sequence[tuple[int, int]]) -> str:
    """These texts, and any of these lengths."""
    exact = [re.escape(text).replace("\\\n", "\\n").replace("/", r"\/") for text in texts]
    return "|".join([*exact, *(rf"(.|\n){{{least},{most}}}" for least, most in lengths)])


def _joined(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _any_of(options: Sequence[str]) -> str:
    return f"({' | '.join(options)})*" if options else ""
