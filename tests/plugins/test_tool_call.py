"""Tool-call delimiters and JSON braces, however the text is cut."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfi_agent.errors import SettingError
from sfi_agent.registry import Registry
from sfi_plugins.boundaries.tool_call import DELIMITERS, JSONBraces, ToolCallDetector

WORDS = st.sampled_from([*DELIMITERS, "<tool", "_call>", "<", "[TOOL", "call>", "|>", " ", "é", "a"])
JSON = st.recursive(
    st.none() | st.integers() | st.text('{}"\\ a\n', max_size=6),
    lambda inner: (
        st.dictionaries(st.text('{}"a', max_size=3), inner, max_size=3) | st.lists(inner, max_size=3)
    ),
    max_leaves=6,
)


def ends(text, delimiters=DELIMITERS):
    """Where in ``text`` each occurrence of each delimiter is complete."""
    return {
        start + len(delimiter)
        for delimiter in delimiters
        for start in range(len(text))
        if text.startswith(delimiter, start)
    }


def cut(text, places):
    """``text`` cut at ``places``; empty pieces where a place repeats."""
    places = sorted(place % (len(text) + 1) for place in places)
    return [text[start:stop] for start, stop in zip([0, *places], [*places, len(text)], strict=True)]


def fired(detector, text):
    """Where in ``text`` it fires, fed one character at a time."""
    return [place for place, character in enumerate(text) if detector.observe(character)]


@pytest.mark.parametrize("delimiter", DELIMITERS)
def test_a_delimiter_cut_in_two_fires_once(delimiter):
    for place in range(len(delimiter) + 1):
        detector = ToolCallDetector()
        answers = [detector.observe(text) for text in ("so: ", delimiter[:place], delimiter[place:], " then")]
        assert answers == [False, place == len(delimiter), place < len(delimiter), False]


@given(text=st.lists(WORDS).map("".join), places=st.lists(st.integers(0, 200), max_size=40))
def test_a_piece_fires_if_a_delimiter_ends_in_it(text, places):
    detector, at = ToolCallDetector(json_braces=False), 0
    for piece in cut(text, places):
        expected = any(at < end <= at + len(piece) for end in ends(text))
        assert detector.observe(piece) == expected
        at += len(piece)


def test_memory_is_bounded():
    detector = ToolCallDetector()
    for _ in range(100):
        detector.observe("<tool" * 50)
    assert len(detector._seen) < max(map(len, DELIMITERS))


def test_delimiters_are_a_setting():
    detector = Registry().create("boundary", "tool_call", {"delimiters": ["<<", "<<<"], "json_braces": False})
    assert fired(detector, "a << b <<< c") == [3, 8, 9]


@pytest.mark.parametrize(
    ("settings", "allowed"),
    [
        ({"delimiters": ["<a>", ""]}, "non-empty strings"),
        ({"delimiters": [], "json_braces": False}, "must not be empty while json_braces is off"),
    ],
)
def test_a_wrong_value_is_refused(settings, allowed):
    with pytest.raises(SettingError, match=allowed):
        Registry().create("boundary", "tool_call", settings)


def test_delimiters_as_one_string_are_refused():
    with pytest.raises(ValueError, match="non-empty strings"):
        ToolCallDetector(delimiters="<a>")


def braces(text):
    return fired(JSONBraces(), text)


@given(objects=st.lists(st.dictionaries(st.text('{}"\\ ', max_size=4), JSON, max_size=3), max_size=3),
       indent=st.sampled_from([None, 2]))  # fmt: skip
def test_an_object_fires_where_it_opens_and_closes(objects, indent):
    text, expected = "call: ", []
    for each in objects:
        written = json.dumps(each, indent=indent)
        expected += [len(text), len(text) + len(written) - 1]
        text += written + ", "
    assert braces(text) == expected


@given(text=st.text('{}"\\\n a', max_size=60), places=st.lists(st.integers(0, 60), max_size=20))
def test_braces_do_not_depend_on_the_cutting(text, places):
    by_piece, by_character = JSONBraces(), JSONBraces()
    for piece in cut(text, places):
        expected = any([by_character.observe(character) for character in piece])  # noqa: C419 no early stop
        assert by_piece.observe(piece) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": {"b": {}}}', [0, 15]),
        ('{"a": "}{"}', [0, 10]),
        (r'{"a": "\"}"}', [0, 11]),
        (r'{"a": "\\"}', [0, 10]),
        ('[{"a": 1}, {"b": 2}]', [1, 8, 11, 18]),
        ("{} '{' {}", [0, 1, 4, 7, 8]),
        ('} {"a": 1}', [2, 9]),
        (r"\frac{a}{b} then " + '{"a": 1}', [5, 8, 17, 24]),
        ('if (x) { y } {"a": "open\n} {"b": 2}', [7, 13, 25, 27, 34]),
    ],
)
def test_braces_case_by_case(text, expected):
    assert braces(text) == expected


def test_braces_can_be_switched_off():
    assert not ToolCallDetector(json_braces=False).observe('{"a": 1}')
    assert ToolCallDetector().observe('{"a": 1}')


def test_reset_forgets_half_a_delimiter_and_an_open_object():
    detector = ToolCallDetector()
    detector.observe('{"a": "<tool_')
    detector.reset()
    assert not detector.observe("call>")
    assert detector.observe("{")
