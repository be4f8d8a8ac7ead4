"""No grammar ends the process: what llguidance would not survive is refused before it sees it."""

from __future__ import annotations

import json
import threading
import weakref
from functools import partial
from typing import Any

import pytest

from sfi_agent.errors import GrammarError, SettingError
from sfi_agent.grammar import Grammars
from sfi_agent.grammar.depth import on_deep_stack
from sfi_agent.policy import Grammar
from sfi_agent.tools import FAMILIES, Ask, Tool, call_grammar, choice_of


def chain(length: int, *, arrays: bool = True) -> dict[str, Any]:
    """A schema of references to references, or to arrays of them."""
    links: dict[str, Any] = {f"A{i}": {"$ref": f"#/$defs/A{i + 1}"} for i in range(length)}
    if arrays:
        links = {name: {"type": "array", "items": link} for name, link in links.items()}
    return {"$ref": "#/$defs/A0", "$defs": {**links, f"A{length}": {"type": "null"}}}


def rules(length: int) -> str:
    return "start: a0\n" + "".join(f'a{i}: "x" a{i + 1}\n' for i in range(length)) + f'a{length}: "x"'


LOWEST = {"type": "integer", "minimum": -(10**20), "maximum": -(10**19)}
FATAL = {
    "references": {"json_schema": chain(20_000, arrays=False)},
    "arrays of references": {"json_schema": chain(20_000)},
    "rules": {"lark": rules(30_000)},
    "brackets": {"lark": "start: a0\n" + "".join(f"a{i}: {'(' * 9}a{i + 1}{')' * 9}\n" for i in range(9000))},
    "references in Lark": {"lark": f'start: "x" %json {json.dumps(chain(20_000))}'},
    "limits in Lark": {"lark": f"start: %json{json.dumps(LOWEST)} %json {json.dumps(LOWEST)}"},
    "limits where no schema is": {"json_schema": {"$ref": "#/examples/0", "examples": [LOWEST]}},
}


@pytest.fixture(scope="module")
def grammars(tiny) -> Grammars:
    return Grammars(tiny.tokenizer, 259, frozenset({1}))


@pytest.mark.parametrize("form", FATAL)
def test_a_grammar_that_would_end_the_process_is_refused(grammars, form) -> None:
    with pytest.raises(
        GrammarError, match=r"levels deep, but 20000 at most|minimum must be at least"
    ) as said:
        grammars.constraint(Grammar.of(**FATAL[form]))
    assert "\n" not in str(said.value)


@pytest.mark.parametrize("family", ["hermes", "tagged"])
def test_so_is_one_among_the_arguments_of_a_tool(grammars, family) -> None:
    links = chain(20_000, arrays=False)
    parameters = {"type": "object", "properties": {"a": {"$ref": links["$ref"]}}, "$defs": links["$defs"]}
    choice = choice_of((Tool("add", "", parameters),), "any")
    with pytest.raises(GrammarError, match="levels deep"):
        grammars.constraint(call_grammar(choice, FAMILIES[family], {}, parallel=False))


@pytest.mark.parametrize(
    "form", [{"json_schema": chain(1000)}, {"lark": rules(15_000)}], ids=["$ref", "lark"]
)
def test_what_only_the_stack_of_a_small_thread_would_refuse_is_compiled(grammars, form) -> None:
    """And used, on that stack."""
    allowed: list[bool] = []

    def use() -> None:
        allowed.extend(grammars.constraint(Grammar.of(**form)).allowed([]))

    usual = threading.stack_size(2**20)
    try:
        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
        assert threading.stack_size() == 2**20
    finally:
        threading.stack_size(usual)
    assert any(allowed)


@pytest.mark.parametrize("levels", [65, 400, 3000])
def test_a_schema_deeper_than_what_reads_it_is_refused_in_one_line(levels) -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        deep = {"type": "object", "properties": {"a": deep}}
    function = {"name": "add", "parameters": deep}
    for give in (
        lambda: Grammar.of(json_schema=deep),
        lambda: Ask(schema=deep),
        lambda: Tool.of({"type": "function", "function": function}),
    ):
        with pytest.raises(SettingError, match="objects and lists may be 128 levels deep") as said:
            give()
        assert len(str(said.value)) < 400
        assert "\n" not in str(said.value)


def test_one_as_deep_as_can_be_read_is_compiled(grammars) -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(60):
        deep = {"type": "object", "properties": {"a": deep}, "additionalProperties": False}
    assert grammars.constraint(Grammar.of(json_schema=deep))


@pytest.mark.usefixtures("uncollected")
def test_what_could_not_be_compiled_is_gone_at_once():
    """What was raised is in no cycle with it."""

    def fail(grammar):
        raise ZeroDivisionError

    grammar = threading.Event()  # stands for one
    known = weakref.ref(grammar)
    with pytest.raises(ZeroDivisionError):
        on_deep_stack(partial(fail, grammar))
    del grammar
    assert known() is None
