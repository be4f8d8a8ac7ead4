"""A bounded schema allows what the schema allows, and nothing that goes on for ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sfi_agent import Sampling
from sfi_agent.errors import GrammarError
from sfi_agent.grammar import bounded
from sfi_agent.policy import Grammar

NODE = {
    "$defs": {
        "Node": {
            "type": "object",
            "properties": {
                "value": {"type": "integer"},
                "next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]},
            },
            "required": ["value"],
        }
    },
    "$ref": "#/$defs/Node",
}


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "string"}, ['""', '"å"', '"' + 9 * "x" + '"'], ['"' + 10 * "x" + '"', "x", " "]),
        ({"type": "string", "maxLength": 20}, ['"' + 20 * "x" + '"'], ['"' + 21 * "x" + '"']),
        ({"type": "string", "minLength": 12}, ['"' + 12 * "x" + '"'], ['"' + 13 * "x" + '"']),
        ({"type": "string", "format": "date"}, ['"2024-02-03"'], ['"x"']),
        ({"type": "string", "pattern": "^[0-9]{12}$"}, ['"123456789012"'], ['"1"']),
        ({"type": "string", "format": "binary"}, ['"x"'], ["1"]),
        ({"enum": ["a", 2]}, ['"a"', "2"], ['"b"']),
        ({"type": "integer"}, ["0", "-7", "1000000000000000"], ["10000000000000000", "1.5", "1e5"]),
        ({"type": "integer", "minimum": 10**16}, [str(10**16)], ["3", str(3 * 10**16)]),
        ({"type": "integer", "exclusiveMinimum": 0}, ["1"], ["0"]),
        ({"type": "number"}, ["0.5", "-3", "0.000000001"], ["0.0000000001", "1" + 17 * "0"]),
        ({"type": "number", "maximum": 1.5}, ["1.5", "-2"], ["1.6"]),
        ({"type": "array", "items": {"type": "integer"}}, ["[]", "[1, 2, 3]"], ["[1, 1, 1, 1]", "[1,2]"]),
        ({"type": "array"}, ['[{"a": [1]}, null]'], ["[[[[]]]]"]),
        (
            {"properties": {"a": {"type": "integer"}, "b": {"type": "null"}}, "required": ["a"]},
            ['{"a": 1}', '{"a": 1, "b": null}'],
            ['{"b": null}', '{"a": 1, "c": 2}', '{"a":1}'],
        ),
        ({"type": "object"}, ["{}", '{"x": {"y": [2.5]}}'], ['{"a": 1, "b": 1, "c": 1, "d": 1}']),
        (
            {"type": "object", "additionalProperties": {"type": "integer"}},
            ['{"x": 1}'],
            ['{"x": "y"}', '{"' + 65 * "x" + '": 1}'],
        ),
        ({"type": "object", "additionalProperties": False}, ["{}"], ['{"a": 1}']),
        (
            {"properties": {"a": {"type": "integer"}}, "additionalProperties": {"type": "null"}},
            ["{}", '{"a": 1}', '{"a": 1, "b": null, "ab": null, "é": null}', '{"' + 64 * "a" + '": null}'],
            [
                *('{"a": null}', '{"b": 1}', '{"' + 65 * "a" + '": null}'),
                '{"a": 1, "b": null, "c": null, "d": null, "e": null}',
            ],
        ),
        (
            {"properties": {"a.b": {"const": 1}}, "required": ["a.b"], "additionalProperties": True},
            ['{"a.b": 1}', '{"a.b": 1, "aab": [2], "a": "x", "a.bc": 3}'],
            ["{}", '{"a": 1}', '{"a.b": 1, "x": "' + 10 * "x" + '"}'],
        ),
        (
            {"type": "object", "properties": {}, "patternProperties": {"^x": {"type": "integer"}}},
            ['{"x": 1}'],
            ['{"a": 1}', '{"x": 1, "xa": 1, "xb": 1, "xc": 1}'],
        ),
        ({"prefixItems": [{"type": "null"}]}, ["[]", '[null, "x", 2]'], ['[null, "' + 10 * "x" + '"]']),
        ({}, ["null", '"x"', "[1]", '{"a": true}'], ["[", "[[[[1]]]]"]),
        ({"type": ["string", "null"]}, ['"x"', "null"], ["1", '"' + 10 * "x" + '"']),
        (NODE, ['{"value": 1, "next": {"value": 2, "next": null}}'], ['{"next": null}']),
        (
            {"allOf": [{"properties": {k: {"type": "integer"}}} for k in "ab"]},
            ['{"a": 1, "b": 2}'],
            ['{"a": "x"}', '{"c": 1}'],
        ),
        (
            {"type": "object", "allOf": [{"additionalProperties": {"type": "integer"}}]},
            ["{}", '{"a": 1}'],
            ['{"a": "x"}', '{"' + 65 * "x" + '": 1}'],
        ),
        ({"allOf": [{"type": "string"}, {"minLength": 1}]}, ['"x"'], ['""', "1"]),
    ],
    ids=str,
)  # fmt: skip
def test_what_a_bounded_schema_allows(allows, schema, good, bad) -> None:
    before = str(schema)
    for text in good:
        assert allows(schema, text, max_string=9, max_items=3), text
    for text in bad:
        assert not allows(schema, text, max_string=9, max_items=3), text
    assert str(schema) == before, "the caller's schema is not changed"


def test_a_property_named_like_a_keyword_is_no_keyword() -> None:
    schema = {"type": "object", "properties": {"type": {"type": "string"}, "items": {"type": "string"}}}
    made = bounded(schema, max_string=5, max_items=2)
    assert made["properties"] == {name: {"type": "string", "maxLength": 5} for name in ("type", "items")}


def test_what_cannot_be_enforced_is_an_error_unless_lenient(allows) -> None:
    schema = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
    with pytest.raises(GrammarError, match="uniqueItems") as caught:
        allows(schema, "[1]")
    assert "\n" not in str(caught.value)
    assert allows(schema, "[1, 1]", lenient=True)


AB = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "null"}}}
REFUSED = {
    "uniqueItems": {"items": {}, "uniqueItems": True},
    "contains": {"items": {}, "contains": {"const": 1}},
    "unevaluatedItems": {"items": {}, "unevaluatedItems": False},
    "propertyNames": {"type": "object", "propertyNames": {"pattern": "^a"}},
    "dependentRequired": {**AB, "dependentRequired": {"a": ["b"]}},
    "dependentSchemas": {**AB, "dependentSchemas": {"a": {"required": ["b"]}}},
    "unevaluatedProperties": {**AB, "unevaluatedProperties": False},
    "not": {"not": {"type": "null"}},
    "if": {"if": {"type": "null"}, "then": {}, "else": {"const": 1}},
    "oneOf": {"oneOf": [{"type": "integer"}, {"type": "number"}]},
}


@pytest.mark.parametrize("keyword", REFUSED)
def test_each_keyword_that_cannot_be_held_is_refused_and_documented(tiny, shared, keyword) -> None:
    """In one line, before the turn; never dropped and hoped for. Without it the same schema serves."""
    page = (Path(__file__).parents[3] / "docs/how-to/call-tools.md").read_text(encoding="utf-8")
    assert f"`{keyword}`" in page.partition("What a grammar cannot hold")[2].partition("- **")[0]

    def ask(**settings: Any) -> None:
        grammar = Grammar.of(json_schema={"type": "array", "items": REFUSED[keyword]}, **settings)
        shared.stream(tiny.prompt(8), sampling=Sampling.of(grammar=grammar)).close()

    with pytest.raises(
        GrammarError, match=rf"\b{keyword}\b.*\(strict=False, or lenient in a Grammar\)$"
    ) as said:
        ask()
    assert "\n" not in str(said.value)
    ask(lenient=True)


@pytest.mark.parametrize("form", ["beside", "apart", "others", "patterns"])
def test_alternatives_that_only_require_choose_among_what_is_declared_beside_them(allows, form) -> None:
    either = {"anyOf": [{"required": ["a"]}, {"required": ["b"], "description": "The other."}]}
    schema = {
        "beside": {**AB, **either},
        "apart": {"allOf": [AB, either]},
        "others": {**AB, **either, "additionalProperties": True},
        "patterns": {**AB, **either, "patternProperties": {"^x": {"type": "null"}}},
    }[form]
    assert all(allows(schema, text) for text in ('{"a": 1}', '{"b": null}', '{"a": 1, "b": null}'))
    assert not any(allows(schema, text) for text in ("{}", '{"a": null}', '{"a": 1, "c": 1}', "1", "1e9"))
    assert allows({**schema, "required": ["b"]}, '{"b": null}')
    assert not allows({**schema, "required": ["b"]}, '{"a": 1}')


@pytest.mark.parametrize("alternative", [{"required": ["z"]}, {}], ids=str)
def test_keys_that_cannot_be_counted_are_told_in_words_of_the_schema(allows, alternative) -> None:
    both = {name: {"type": "integer"} for name in "ab"}
    with pytest.raises(GrammarError, match="declare these in properties"):
        allows({"type": "object", "properties": both, "anyOf": [{"required": ["a"]}, alternative]}, "{}")


def test_items_that_need_not_be_unique_need_nothing(allows) -> None:
    schema = {"type": "array", "items": {"type": "integer"}, "uniqueItems": False}
    assert allows(schema, "[1, 1]")


@pytest.mark.parametrize(
    "wrong", [{"json_schema": {"type": "strin"}}, {"regex": "["}, {"lark": "start: nope"}]
)
def test_a_bad_grammar_is_told_before_the_turn(tiny, shared, wrong) -> None:
    with pytest.raises(GrammarError, match="the grammar cannot be used") as caught:
        shared.stream(tiny.prompt(8), sampling=Sampling.of(grammar=Grammar.of(**wrong)))
    assert "\n" not in str(caught.value)


def test_a_grammar_has_one_form_and_an_end() -> None:
    with pytest.raises(ValueError, match="exactly one"):
        Grammar.of(regex="a", lark="start: /a/")
    with pytest.raises(ValueError, match="ignore_eos"):
        Sampling.of(grammar=Grammar.of(regex="a"), ignore_eos=True)
