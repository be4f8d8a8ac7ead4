"""Limits of numbers and patterns of strings, where llguidance holds less than a schema may ask."""

from __future__ import annotations

import pytest

from sfi_agent.errors import GrammarError

DECIMAL = r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"  # as pydantic writes it


@pytest.mark.parametrize("pattern", [DECIMAL, r"^(a)\1$", r"\bfoo\b", "^[a-z", "a^b"])
def test_a_pattern_that_cannot_be_read_is_refused_unless_lenient(allows, pattern) -> None:
    text = {"pattern": pattern}
    for schema in (
        {"type": "string", **text},
        {"properties": {"a": text}},
        {"allOf": [text, {"maxLength": 2}]},
    ):
        with pytest.raises(GrammarError, match=r"leave the pattern out .*\(strict=False, or lenient") as said:
            allows(schema, '"x"')
        assert "\n" not in str(said.value)
    assert allows({"anyOf": [{"type": "number"}, {"type": "string", **text}]}, '"x"', lenient=True)
    assert allows({"type": "object", "properties": {"a": text}}, '{"a": "x"}', lenient=True)
    assert allows({"type": "string", **text}, '"12345678"', lenient=True, max_string=8)
    assert not allows({"type": "string", **text}, '"123456789"', lenient=True, max_string=8)
    assert not allows({"type": "string", "pattern": "^a$"}, '"x"', lenient=True), "others are held"


INTEGER, NUMBER = {"type": "integer"}, {"type": "number"}
MOST = 2**63 - 1024


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({**INTEGER, "minimum": -(2**63), "maximum": 2**63 - 1}, [0, MOST, -MOST], [MOST + 1]),
        ({**INTEGER, "minimum": -(2**63)}, [5, -MOST, 10**15], [10**16]),
        ({**INTEGER, "maximum": 2**64 - 1}, [MOST, -(10**15)], [-(10**16), 2**63]),
        ({**INTEGER, "exclusiveMaximum": -(10**18)}, [-(10**18) - 128, -2 * 10**18], [-(10**18), 0]),
        ({**INTEGER, "minimum": 9 * 10**18}, [9 * 10**18, MOST], [10**18, MOST + 1]),
        ({**INTEGER, "minimum": 0, "exclusiveMinimum": 10**16}, [10**16 + 4], [10**16, 0]),
        ({**INTEGER, "minimum": 2**53 + 1, "maximum": 2**53 + 3}, [2**53 + 2], [2**53, 2**53 + 4]),
        ({**NUMBER, "minimum": 0, "maximum": 1e20}, ["0.5", 10**18], ["-1", 10**19]),
        ({**NUMBER, "maximum": 1.797e308}, ["0.5", -(10**15), MOST - 1024], [-(10**16)]),
        ({**NUMBER, "minimum": -1.797e308, "maximum": float("inf")}, ["0.5", -(10**18)], [10**19]),
        ({"allOf": [INTEGER, {"maximum": 1e20}, {"minimum": 0}]}, [7], [-1]),
        ({"minimum": 0, "maximum": 1e20}, [7, '"x"'], [-1]),
    ],
    ids=str,
)  # fmt: skip
def test_limits_of_64_bits_and_more_are_held_and_never_looser(allows, schema, good, bad) -> None:
    for settings in ({}, {"lenient": True}):
        assert all(allows(schema, str(text), **settings) for text in good)
        assert not any(allows(schema, str(text), **settings) for text in bad)


@pytest.mark.parametrize("form", [{}, {"allOf": [INTEGER]}, {"type": "number"}], ids=str)
@pytest.mark.parametrize(
    "limit", [{"minimum": 10**19}, {"maximum": -1e300}, {"exclusiveMinimum": MOST}], ids=str
)
def test_a_limit_that_leaves_no_number_is_refused_unless_lenient(allows, limit, form) -> None:
    with pytest.raises(GrammarError, match=rf"{next(iter(limit))} leaves no number .*\(strict=False, or"):
        allows({**INTEGER, **limit, **form}, "1")
    assert allows({**INTEGER, **limit, **form}, "1", lenient=True)


@pytest.mark.parametrize(
    ("limits", "good", "bad"),
    [
        ({"exclusiveMinimum": 0, "maximum": 0.5}, ["0.5", "0.000000001"], ["0", "0.0", "-0"]),
        ({"exclusiveMinimum": 0.0, "exclusiveMaximum": 1}, ["0.5", "0.999999999"], ["0", "1"]),
        ({"exclusiveMinimum": 2, "exclusiveMaximum": 2.5}, ["2.1"], ["2", "2.5"]),
        ({"exclusiveMinimum": 2, "minimum": 2.25, "maximum": 2.5}, ["2.25"], ["2", "2.1"]),
        ({"minimum": -0.5, "exclusiveMaximum": 0}, ["-0.5", "-0.1"], ["0", "-0"]),
        ({"minimum": -2.5, "exclusiveMaximum": -2}, ["-2.1"], ["-2"]),
        ({"exclusiveMinimum": 0, "maximum": 0.5, "multipleOf": 0.25}, ["0.25"], ["0", "0.1"]),
        ({"exclusiveMinimum": 10**14, "maximum": 10**14 + 0.5}, ["100000000000000.25"], ["1" + 14 * "0"]),
    ],
    ids=str,
)
def test_a_limit_that_is_exclusive_is_no_value_however_near_the_other_is(allows, limits, good, bad) -> None:
    for schema in ({**NUMBER, **limits}, {"type": ["number", "null"], **limits}, limits):
        assert all(allows(schema, text) for text in good)
        assert not any(allows(schema, text) for text in bad)
