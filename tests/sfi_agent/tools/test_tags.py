"""Calls whose parameters are tags: what their grammar allows is read as it was meant."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sfi_agent.errors import GrammarError
from sfi_agent.grammar import Grammars
from sfi_agent.tools import (
    FAMILIES,
    CallArguments,
    CallFinished,
    Tool,
    call_grammar,
    choice_of,
    parse_response,
    parser_of,
)
from sfi_agent.tools.events import joined


def grammar_of(parameters: dict[str, Any], family: str = "tagged", **settings: Any) -> Any:
    tool = Tool.of({"type": "function", "function": {"name": "note", "parameters": parameters}})
    return call_grammar(choice_of((tool,), "any"), FAMILIES[family], {}, parallel=False, **settings)


@pytest.mark.parametrize("family", ["hermes", "tagged"])
@pytest.mark.parametrize(
    ("keyword", "given"),
    [
        *[("properties", None), ("required", None), ("allOf", None), ("anyOf", 5), ("enum", None)],
        *[
            ("$ref", 5),
            ("type", 5),
            ("type", [[]]),
            ("minLength", "3"),
            ("maxLength", None),
            ("minItems", "x"),
        ],
    ],
)
def test_a_keyword_of_the_wrong_kind_is_told_before_the_turn(family, keyword, given) -> None:
    properties = {"a": {"type": ["string", "array"], keyword: given}}
    schema = {"properties": properties}
    if keyword in ("properties", "required"):
        schema = {"properties": {"a": {}}, keyword: given}
    with pytest.raises(GrammarError, match=rf"{keyword.replace('$', '.')} must be .* \(given '"):
        grammar_of(schema, family)


TAGS = [
    "", "\n", "</parameter>", "</parameter>\n", "x</parameter>\n<parameter=b>\n", "</tool_call>", "\n\n",
    " a ", "\n</tool_call>\n", "</function>\n</tool_call>", "a\n</parameter> b",
]  # fmt: skip
END = "\n</parameter>\n"
ENDS = [END, f"{END}</function>\n</tool_call>", "\n</parameter>"]
TEXT: dict[str, Any] = {"type": "string"}
VALUES = [
    *[(TEXT, text) for text in TAGS],
    *[({"anyOf": [TEXT, {"type": "null"}]}, text) for text in [*TAGS, None]],
    *[
        ({"anyOf": [{**TEXT, "minLength": 9}, {"type": "null"}]}, text)
        for text in [*ENDS, "</tool_call>", None]
    ],
    ({"anyOf": [{**TEXT, "minLength": 9}, {"enum": ["short", "</b>"]}]}, "</b>"),
    ({"anyOf": [{**TEXT, "maxLength": 2}, {**TEXT, "minLength": 14}]}, f"abc{END}"),
    *[({"enum": ["other", text]}, text) for text in TAGS],
    *[({"type": "array", "items": TEXT}, [text, '"', text]) for text in TAGS + ENDS],
    *[({"type": "object", "properties": {text: TEXT}}, {text: text}) for text in TAGS + ENDS],
    *[
        ({"anyOf": [{"const": TAGS[2]}, {"type": "array", "items": TEXT}]}, value)
        for value in (TAGS[2], ENDS)
    ],
]


@pytest.mark.parametrize(("schema", "value"), VALUES, ids=repr)
def test_what_the_grammar_allows_is_read_as_it_was_meant_whatever_tags_are_in_it(tiny, schema, value) -> None:
    """In one piece as in many."""
    properties = {"a": schema, "b": {"type": "integer"}}
    parameters = {"type": "object", "properties": properties, "required": ["a"]}
    held = value if isinstance(value, str) else json.dumps(value)
    text = f"<tool_call>\n<function=note>\n<parameter=a>\n{held}{END}"
    text += f"<parameter=b>\n7{END}</function>\n</tool_call>"
    constraint = Grammars(tiny.tokenizer, 259, frozenset({1})).constraint(grammar_of(parameters))
    ids = tiny.tokenizer(text)["input_ids"]
    assert all(constraint.allowed(ids[:at])[token] for at, token in enumerate(ids))
    assert constraint.allowed(ids)[1]
    whole = parse_response(text, FAMILIES["tagged"], {"note": parameters}, forced=True)
    assert whole[-1] == CallFinished(0, "note", {"a": value, "b": 7})
    assert json.loads("".join(e.text for e in whole if isinstance(e, CallArguments))) == whole[-1].arguments
    for length in (1, 3, 14):
        parser = parser_of(FAMILIES["tagged"], {"note": parameters}, forced=True)
        pieces = [text[at : at + length] for at in range(0, len(text), length)]
        assert joined([event for piece in pieces for event in parser.feed(piece)] + parser.finish()) == whole


@pytest.mark.parametrize("name", ["", "a\nb", "a>b"])
def test_a_name_that_no_tag_can_hold_is_refused(name) -> None:
    with pytest.raises(GrammarError, match="without '>' and line breaks") as said:
        grammar_of({"properties": {"fine": {}, name: TEXT}})
    assert "\n" not in str(said.value)
    assert grammar_of({"properties": {"fine": {}, name: TEXT}}, "hermes")


@pytest.mark.parametrize("value", ENDS)
def test_so_is_a_value_that_would_end_its_own_tag(value) -> None:
    with pytest.raises(GrammarError, match="a value of 'a' has the end of one") as said:
        grammar_of({"properties": {"a": {"enum": ["x", value]}}})
    assert "\n" not in str(said.value)
