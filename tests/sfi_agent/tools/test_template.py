"""Answers that transformers reads, by the response template of a tokenizer."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfi_agent import Sampling
from sfi_agent.tools import Ask, CallFinished, CallInvalid, Dialect, Reasoning, Text, Tool, choice_of
from sfi_agent.tools.events import Event, joined
from sfi_agent.tools.template import TemplateParser, has_template

ADD = Tool("add", "", {"type": "object", "properties": {"a": {"type": "integer"}}})
TEMPLATE = {
    "defaults": {"role": "assistant"},
    "start_anchor": "assistant:",
    "fields": {
        "thinking": {"open": "<hm>", "close": "</hm>", "content": "text"},
        "tool_calls": {
            "open_pattern": r"<do (?P<name>\w+)>",
            "close": "</do>",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
        },
        "content": {"close": "<eos>", "content": "text"},
    },
}
pytestmark = pytest.mark.skipif(
    not hasattr(__import__("transformers").PreTrainedTokenizerBase, "get_response_parser"),
    reason="this transformers reads no response templates",
)


@pytest.fixture(scope="module")
def tokenizer(tiny) -> Any:
    made = copy.deepcopy(tiny.tokenizer)
    made.chat_template = "{% if tools %}{{ tools }}{% endif %}assistant:"
    made.response_template = TEMPLATE
    return made


def read(tokenizer: Any, *pieces: str, prompt: str = "assistant:") -> list[Event]:
    parser = TemplateParser(tokenizer, prompt, [ADD])
    return joined([*(event for piece in pieces for event in parser.feed(piece)), *parser.finish()])


def test_what_it_reads(tokenizer) -> None:
    events = read(tokenizer, '<hm>Well.</hm>I add.<do add>{"a": "1"}</do><do sub>{}</do>')
    assert Reasoning("Well.") in events
    assert Text("I add.") in events
    calls = [(e.index, e.name, e.arguments) for e in events if isinstance(e, CallFinished)]
    assert calls == [(0, "add", {"a": 1}), (1, "sub", {})]
    assert read(tokenizer, "on.</hm>Yes", prompt="assistant:<hm>Go ") == [Reasoning("on."), Text("Yes")]


def test_arguments_hold_no_half_of_a_character(tokenizer) -> None:
    """No JSON is written in UTF-8 with one, as the bus would."""
    *_, finished = read(tokenizer, r'<do say>{"a": "\ud83d", "\udc4d": ["\ud83d\udc4d"]}</do>')
    assert finished == CallFinished(0, "say", {"a": "\ufffd", "\ufffd": ["👍"]})


@pytest.mark.parametrize("broken", ["{", "[1]", "3", '{"a"'])
def test_what_it_cannot_read_is_invalid_and_no_exception(tokenizer, broken: str) -> None:
    events = read(tokenizer, f"So <do add>{broken}</do> and <b>")
    (invalid,) = [event for event in events if isinstance(event, CallInvalid)]
    assert invalid.text == broken
    assert invalid.error
    assert events[0] == Text("So ")
    assert events[-1] == Text(" and <b>")


def test_it_serves_only_calls_of_the_models_own_accord(tokenizer, tiny) -> None:
    """Ours are read by us: the grammar writes them."""
    dialect, tools = Dialect(tokenizer), (ADD,)
    assert has_template(tokenizer)
    assert not has_template(tiny.tokenizer)
    free = Ask(tools, choice_of(tools, None))
    assert isinstance(dialect.parser(free, [5]), TemplateParser)
    assert dialect.sampling(Sampling(), free, [5]).grammar is None
    for choice in ("any", "none"):
        ask = Ask(tools, choice_of(tools, choice))
        assert not isinstance(dialect.parser(ask, [5]), TemplateParser)
    known = copy.deepcopy(tokenizer)
    known.chat_template = "{{ tools }}<tool_call>"
    assert not isinstance(Dialect(known).parser(free, [5]), TemplateParser)


PIECES = ["<do add>", "</do>", "<hm>", "</hm>", '{"a": 1}', "{", "}", "<", "</", "é🎉", " ", "\n", "words"]


@settings(max_examples=150, deadline=None)
@given(parts=st.lists(st.sampled_from(PIECES), max_size=10), cuts=st.lists(st.integers(0, 60), max_size=8))
def test_any_pieces_give_the_same_as_the_whole(tokenizer, parts, cuts) -> None:
    text = "".join(parts)
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    events = read(tokenizer, *(text[start:end] for start, end in pairwise(places)))
    assert events == read(tokenizer, text)
    ends = [event.index for event in events if isinstance(event, CallFinished | CallInvalid)]
    assert ends == [*range(len(ends))]
