"""Answers of every family, read whole and in any pieces."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sfi_agent.tools import (
    FAMILIES,
    CallArguments,
    CallFinished,
    CallInvalid,
    CallStarted,
    Event,
    Reasoning,
    Text,
    parse_response,
    parser_of,
)
from sfi_agent.tools.events import joined

TOOLS = ("add", "find")
SCHEMAS = {
    "add": {"properties": {"a": {"type": "integer"}}},
    "find": {"properties": {"what": {"type": "string"}}},
}


def calls(events: list[Event]) -> list[tuple[str, dict[str, object]]]:
    return [(event.name, event.arguments) for event in events if isinstance(event, CallFinished)]


def shown(events: list[Event], kind: type = Text) -> str:
    return "".join(event.text for event in events if isinstance(event, kind))


ONE = [("add", {"a": 1})]
TWO = [("add", {"a": 1}), ("find", {"what": 'a "}" in ünïcode 🎉'})]
FIND = json.dumps(TWO[1][1], ensure_ascii=False)
ADD, FOUND = '{"name": "add", "arguments": {"a": 1}}', f'{{"name": "find", "arguments": {FIND}}}'
LLAMA_ADD, LLAMA_FIND = (text.replace("arguments", "parameters") for text in (ADD, FOUND))


def tag(name: str, **parameters: object) -> str:
    tags = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in parameters.items())
    return f"<function={name}>\n{tags}</function>"


def analysis(text: str) -> str:
    return f"<|channel|>analysis<|message|>{text}<|end|><|start|>assistant"


WRITTEN = [
    ("hermes", '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>', ONE, ""),
    ("hermes", f"Let me see.\n<tool_call>{ADD}</tool_call>", ONE, "Let me see."),
    ("hermes", f"<tool_call>{ADD}</tool_call>\n<tool_call>{FOUND}</tool_call>", TWO, ""),
    ("hermes", '<tool_call>[{"name": "add", "arguments": {"a": 1}}]</tool_call>', ONE, ""),
    ("hermes", '<tool_call>{"arguments": {"a": 1}, "name": "add"}', ONE, ""),
    ("hermes", '<tool_call>{"name": "add", "arguments": "{\\"a\\": 1}"}</tool_call> ok', ONE, "ok"),
    ("hermes", '<tool_call>{"name": "add"}</tool_call>', [("add", {})], ""),
    ("hermes", "a <tool_cal is no <call>", [], "a <tool_cal is no <call>"),
    ("llama3", '{"name": "add", "parameters": {"a": 1}}', ONE, ""),
    ("llama3", f"{LLAMA_ADD}; {LLAMA_FIND}", TWO, ""),
    ("llama3", '<|python_tag|>{"type": "function", "name": "add", "parameters": {"a": 1}}', ONE, ""),
    ("llama3", '{"an": "answer"} in JSON', [], '{"an": "answer"} in JSON'),
    ("llama3", 'Say {"name": "add"}', [], 'Say {"name": "add"}'),
    ("mistral", '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}}]', ONE, ""),
    ("mistral", f"[TOOL_CALLS][{ADD}, {FOUND}] x", TWO, "x"),
    ("mistral_named", f'A [TOOL_CALLS]add[ARGS]{{"a": 1}}[TOOL_CALLS]find[CALL_ID]x1[ARGS]{FIND}', TWO, "A"),
    ("tagged", f"<tool_call>\n{tag('add', a='1')}\n</tool_call>", ONE, ""),
    ("tagged", f"So:\n<tool_call>{tag('add', a='1')}</tool_call>\n"
     f"<tool_call>{tag('find', **TWO[1][1])}</tool_call>", TWO, "So:"),
    ("tagged", f"<tool_call>{ADD}</tool_call>", ONE, ""),
    ("tagged", "<tool_call><function=add></function></tool_call>", [("add", {})], ""),
    ("harmony", '<|channel|>commentary to=functions.add <|constrain|>json<|message|>{"a": 1}<|call|>',
     ONE, ""),
    ("harmony", ' to=functions.add<|channel|>commentary json<|message|>{"a": 1}', ONE, ""),
    ("harmony", f"{analysis('Hm.')}<|channel|>commentary<|message|>I add.<|end|><|start|>assistant"
     f'<|channel|>commentary to=functions.add<|message|>{{"a": 1}}<|end|>'
     f"<|start|>assistant to=functions.find<|channel|>commentary<|message|>{FIND}<|call|>", TWO, "I add."),
    ("harmony", f"{analysis('Hm.')}<|channel|>final<|message|>It is <b>.<|return|>", [], "It is <b>."),
    ("harmony", "no message at all", [], "no message at all"),
    ("json", ADD, ONE, ""),
    ("json", f"[{ADD}, {FOUND}]", TWO, ""),
    ("json", "[1, 2] is a list", [], "[1, 2] is a list"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("family", "text", "expected", "rest"), WRITTEN, ids=[row[1][:40] for row in WRITTEN]
)
def test_calls_of_every_family(family: str, text: str, expected: list, rest: str) -> None:
    events = parse_response(text, FAMILIES[family], TOOLS)
    assert calls(events) == expected
    assert shown(events) == rest
    assert not [event for event in events if isinstance(event, CallInvalid)]


@pytest.mark.parametrize(("family", "text"), [row[:2] for row in WRITTEN if row[2]])
def test_streamed_arguments_are_the_arguments(family: str, text: str) -> None:
    events = parse_response(text, FAMILIES[family], TOOLS)
    for call in (event for event in events if isinstance(event, CallFinished)):
        streamed = "".join(e.text for e in events if isinstance(e, CallArguments) and e.index == call.index)
        assert json.loads(streamed) == call.arguments
        assert CallStarted(call.index, call.name) in events


@pytest.mark.parametrize(
    ("family", "text", "name"),
    [
        ("hermes", '<tool_call>{"name": "add", "arguments": {"a": ', "add"),
        ("hermes", '<tool_call>{"name": "add", "arguments": {"a": 1}</tool_call>', "add"),
        ("hermes", '<tool_call>{"name": "add", "arguments": {"a": nope}}</tool_call>', "add"),
        ("hermes", '<tool_call>{"name": "add", "arguments": [1]}</tool_call>', "add"),
        ("hermes", '<tool_call>{"arguments": {}}</tool_call>', None),
        ("hermes", "<tool_call>add(1)</tool_call>", None),
        ("hermes", "<tool_call>", None),
        ("llama3", '<|python_tag|>find.call(what="x")', None),
        ("llama3", '{"name": "add", "parameters": {', "add"),
        ("mistral", "[TOOL_CALLS] nothing", None),
        ("mistral_named", '[TOOL_CALLS]add[ARGS]{"a"', "add"),
        ("tagged", "<tool_call>\n<function=add>\n<parameter=a>\n1", "add"),
        ("tagged", "<tool_call>\n<function=add>\n<parameter=a>\n1\n</tool_call>", "add"),
        ("tagged", "<tool_call>\n<function=add>\nwords</function>\n</tool_call>", "add"),
        ("tagged", "<tool_call>\n<func=add></func></tool_call>", None),
        ("harmony", '<|channel|>commentary to=functions.add<|message|>{"a": ', "add"),
        ("harmony", "<|channel|>commentary to=functions.add<|message|>[1]<|call|>", "add"),
        ("harmony", "<|channel|>commentary to=functions.add <|constr", "add"),
    ],
)
def test_what_cannot_be_read_is_invalid_and_no_exception(family: str, text: str, name: str | None) -> None:
    events = parse_response(text, FAMILIES[family], TOOLS)
    (invalid,) = [event for event in events if isinstance(event, CallInvalid)]
    assert invalid.name == name
    assert invalid.error
    assert not calls(events)


@pytest.mark.parametrize(("family", "text"), [row[:2] for row in WRITTEN if row[2] and not row[3]])
def test_a_forced_call_is_one_however_early_it_is_cut(family: str, text: str) -> None:
    """Its delimiters are no text, not even in part."""
    for end in range(1, len(text) + 1):
        events = parse_response(text[:end], FAMILIES[family], SCHEMAS, forced=True)
        assert any(isinstance(event, CallFinished | CallInvalid) for event in events), text[:end]
        assert shown(events) == "", text[:end]


@pytest.mark.parametrize(
    ("family", "text"),
    [
        ("hermes", r'<tool_call>{"name": "note", "arguments": {"a\udce9": ["\udce9", "\ud83d\ude00"]}}'),
        ("hermes", r'<tool_call>{"name": "note", "arguments": "{\"a\\udce9\": [\"\\udce9\", \"😀\"]}"}'),
        ("mistral_named", r'[TOOL_CALLS]note[ARGS]{"a\udce9": ["\udce9", "\ud83d\ude00"]}'),
        ("harmony", r'<|channel|>commentary to=note<|message|>{"a\udce9": ["\udce9", "\ud83d\ude00"]}'),
    ],
)
def test_half_a_character_in_a_call_is_replaced(family: str, text: str) -> None:
    """Nothing that is written to a file or a socket takes it."""
    finished = parse_response(text, FAMILIES[family], ["note"])[-1]
    assert finished == CallFinished(0, "note", {"a\ufffd": ["\ufffd", "😀"]})


def test_half_a_character_in_a_tagged_parameter_is_replaced() -> None:
    text = '<tool_call><function=note><parameter=a>["\\udce9"]</parameter></function></tool_call>'
    _, given, finished = parse_response(text, FAMILIES["tagged"], {"note": {}})
    assert given == CallArguments(0, '{"a": ["\ufffd"]}')
    assert finished == CallFinished(0, "note", {"a": ["\ufffd"]})


def test_reasoning_is_apart_from_the_answer() -> None:
    text = "<think>\nTwo ways: <tool_call> or words.\n</think>\n\nWords, <think>ing."
    events = parse_response(text, FAMILIES["hermes"], TOOLS)
    assert shown(events, Reasoning) == "Two ways: <tool_call> or words."
    assert shown(events) == "Words, <think>ing.", "only at the beginning of an answer"
    opened = parse_response("So.\n</think>\nYes.", FAMILIES["hermes"], thinking=True)
    assert opened == [Reasoning("So."), Text("Yes.")]
    assert parse_response("<think>cut", FAMILIES["json"]) == [Reasoning("cut")]


def test_without_tools_nothing_is_a_call() -> None:
    for family, text, *_ in WRITTEN:
        if family != "harmony":
            assert shown(parse_response(text, FAMILIES[family])) == text
    told = parse_response('<|channel|>commentary to=functions.add<|message|>{"a": 1}', FAMILIES["harmony"])
    assert told == [Text('{"a": 1}')]


PIECES = [
    "<tool_response>", "</tool_response>",
    "<tool_call>", "</tool_call>", "<think>", "</think>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>",
    '{"name": "add", "arguments": {"a": 1}}', '{"name": "find", "parameters": {"b": "ü\\"}"}}', "add",
    "<function=add>", "</function>", "<parameter=a>", "</parameter>", "1", "<|channel|>analysis",
    "<|message|>", "<|start|>assistant", " to=functions.add", "<|end|>", "<|call|>", "<|",
    '{"name": "', '"arguments": ', "{", "}", "[", "]", ",", ";", '"', "\\", "\n", " ", "héllo 🎉", "<", "</",
]  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(
    family=st.sampled_from(sorted(FAMILIES)),
    parts=st.lists(st.sampled_from(PIECES), max_size=12),
    cuts=st.lists(st.integers(0, 200), max_size=12),
    tools=st.sampled_from([(), TOOLS, SCHEMAS]),
    how=st.fixed_dictionaries({"thinking": st.booleans(), "forced": st.booleans(), "results": st.booleans()}),
)
@example(
    "hermes", ["<tool_call>", '{"name": "add", "arguments": {"a": 1}}', "</tool_call>"], [3, 40], TOOLS, {}
)
def test_any_pieces_give_the_same_as_the_whole(family, parts, cuts, tools, how) -> None:
    text = "".join(parts)
    parser, pieces = parser_of(FAMILIES[family], tools, **how), list[Event]()
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    for start, end in pairwise(places):
        pieces += parser.feed(text[start:end])
    pieces += parser.finish()
    whole = parse_response(text, FAMILIES[family], tools, **how)
    assert joined(pieces) == whole
    by_index = {event.index for event in whole if not isinstance(event, Text | Reasoning)}
    assert by_index == set(range(len(by_index))), "calls are counted without gaps"
    ends = [event.index for event in whole if isinstance(event, CallFinished | CallInvalid)]
    assert ends == sorted(by_index), "every call ends, once"


@pytest.mark.parametrize("family", ["hermes", "tagged"])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<tool_response>\nIt is sunny.", "It is sunny."),
        ("<tool_response>\n20\n</tool_response>", "20"),
        ("<think>Hm.</think>\n<tool_response>\n20\n</tool_response>\nSo 20.", "20\nSo 20."),
        (
            "<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response>\n<tool_call>",
            "1\n2",
        ),
        ("It wrote <tool_response>", "It wrote <tool_response>"),
    ],
)
def test_delimiters_of_results_at_the_beginning_are_no_text_after_results(
    family: str, text: str, said: str
) -> None:
    assert shown(parse_response(text, FAMILIES[family], TOOLS, results=True)) == said
    assert "<tool_response>" in shown(parse_response(text, FAMILIES[family], TOOLS))


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=60))
def test_text_without_delimiters_is_given_out_unchanged(text: str) -> None:
    if "<think>" not in text and "<tool_call>" not in text:
        assert shown(parse_response(text, FAMILIES["hermes"], TOOLS)) == text
