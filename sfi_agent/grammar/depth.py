"""Grammars that would overflow the stack in llguidance, which ends the process and no code can catch."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from sfi_agent.errors import GrammarError
from sfi_agent.grammar.numbers import HELD
from sfi_agent.nesting import levels

STACK = 2**28
"""Bytes of the stack on which a grammar is compiled; what is not used takes no memory."""
DEEPEST = 20_000
"""Levels of rules, and of a schema in one, at most. Each takes up to 3.5 KB of the stack."""
Made = TypeVar("Made")

_starting = threading.Lock()
_JSON = re.compile(r"%json\s*")
_decoder = json.JSONDecoder()


def on_deep_stack(make: Callable[[], Made]) -> Made:
    """What ``make`` returns, on a stack that does not depend on the caller's thread."""
    with ThreadPoolExecutor(1) as pool:
        with _starting:
            usual = threading.stack_size(STACK)
            try:
                made = pool.submit(make)
            finally:
                threading.stack_size(usual)
        try:
            return made.result()
        finally:
            del made  # one that failed knows this call, and what it compiled


def refuse_fatal(lark: str) -> None:
    """Raise what is wrong with a grammar that llguidance would not survive.

    Rules follow each other over lines, so that these and brackets are as deep as they can go.
    """
    rules, schemas = _apart(lark)
    deep = sum(rules.count(mark) for mark in "\n([") + max(map(_levels, schemas), default=0)
    if deep > DEEPEST:
        raise GrammarError(
            f"the grammar cannot be used: its rules and references ($ref) may go {deep} levels deep, but "
            f"{DEEPEST} at most can be followed; make chains of them shorter"
        )


def _apart(lark: str) -> tuple[str, list[Any]]:
    """A grammar without its schemas, and these; one that is no JSON llguidance refuses."""
    rules, schemas, at = list[str](), list[Any](), 0
    while found := _JSON.search(lark, at):
        rules.append(lark[at : found.start()])
        at = found.end()
        with suppress(ValueError, RecursionError):
            schema, at = _decoder.raw_decode(lark, at)
            schemas.append(schema)
    return "".join([*rules, lark[at:]]), schemas


def _levels(schema: Any) -> int:
    """Levels of a schema at most: all of them again for each place in it that is referred to."""
    count, places = 0, set[str]()
    for level in levels(schema):
        count += 1
        objects = [value for value in level if isinstance(value, dict)]
        places.update(str(value["$ref"]) for value in objects if "$ref" in value)
        _refuse_lowest(objects)
    return count * (1 + len(places))


def _refuse_lowest(objects: list[dict[str, Any]]) -> None:
    """A range of integers that ends at the lowest one has llguidance go round for ever."""
    for limit in (value.get(name) for value in objects for name in ("minimum", "exclusiveMinimum")):
        if isinstance(limit, int | float) and limit < -HELD:
            raise GrammarError(
                f"the grammar cannot be used: minimum must be at least {-HELD} (given {limit})"
            )
