"""An agent's session on a real model: what a tool said long ago is known through the sparse memory."""

from __future__ import annotations

import json
import re
from itertools import groupby

import pytest

from sfi_agent import Policy, Registry, Runtime, Sampling
from sfi_agent.events import MemoryRefreshed, PrefillProgress, SlowStep, ToolCallFound
from sfi_agent.hookspecs import hookimpl
from sfi_agent.tools import Ask, Tool, choice_of

SHIPS = (
    *("Aurora", "Bramble", "Cormorant", "Dunlin", "Egret", "Falcon", "Gannet", "Heron", "Ibis", "Jackdaw"),
    *(
        "Kestrel",
        "Linnet",
        "Merlin",
        "Nightjar",
        "Osprey",
        "Plover",
        "Quail",
        "Raven",
        "Siskin",
        "Teal",
        "Wren",
    ),
)
CODE = "walrus"
LOOK_UP = Tool(
    "look_up",
    "Look up a ship in the register.",
    {"type": "object", "properties": {"ship": {"type": "string", "enum": [*SHIPS]}}, "required": ["ship"]},
)
GATE = Tool(
    "open_gate",
    "Open the gate of the harbour with its code word.",
    {"type": "object", "properties": {"code_word": {"type": "string"}}, "required": ["code_word"]},
)
TOOLS = (LOOK_UP, GATE)
POLICY = Policy(mode="sfi", budget=0.125)


def result(number: int) -> str:
    """What the register says of a ship; the first one's entry has the code."""
    if number == 0:
        return f"The ship Aurora is in the harbour. The code word of the harbour gate is {CODE}."
    load, port = ("salt", "timber", "wool", "grain")[number % 4], ("Oslo", "Lima", "Turin")[number % 3]
    return (
        f"The ship {SHIPS[number]} carries {load} from {port}. It is {20 + number} metres long, has a "
        f"crew of {5 + number % 7} and lies at pier {1 + number % 9} until Monday morning."
    )


def called(number: int) -> list[dict]:
    """The messages of a call and its result."""
    call = {"type": "function", "function": {"name": "look_up", "arguments": {"ship": SHIPS[number]}}}
    return [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": result(number)},
    ]


class Session:
    """The agent's turns in one session, and their events."""

    name = "session"

    def __init__(self, folder):
        self.events, self.messages = [], [{"role": "user", "content": "Look up all ships."}]
        self.runtime = Runtime.load(folder, registry=Registry([self]))

    @hookimpl
    def sfi_on_event(self, event):
        self.events.append(event)

    def prompt(self):
        told, tools = self.runtime.dialect.prompt(self.messages, Ask(TOOLS))
        return self.runtime.encode(told, tools=tools)

    def turn(self, policy, choice, **settings):
        self.events.clear()
        ask = Ask(TOOLS, choice_of(TOOLS, choice))
        return self.runtime.generate(
            self.prompt(), policy=policy, ask=ask, session="agent", sampling=Sampling(**settings)
        )


@pytest.fixture(scope="module")
def session(smollm2):
    """Twenty calls, of which the first one's result has the code."""
    made = Session(smollm2)
    for number in range(20):
        made.messages += called(number)
    yield made
    made.runtime.close()


@pytest.fixture(scope="module")
def last_call(session):
    """The model's own call, the twenty-first, at a policy whose boundaries all count; and its events."""
    prompt = session.prompt()
    answer = session.turn(POLICY.but(min_gap=0), "look_up", max_new_tokens=60)
    return prompt, answer, list(session.events)


def test_delimiters_of_calls_make_slow_steps(session, last_call):
    prompt, answer, events = last_call
    assert re.fullmatch(r"<tool_call>\n.*\n</tool_call>", answer.text)
    decode, ids = session.runtime.tokenizer.decode, answer.token_ids
    completed = {
        len(prompt) + index
        for index in range(len(ids))
        for delimiter in ("<tool_call>", "</tool_call>")
        if decode(ids[: index + 1]).count(delimiter) > decode(ids[:index]).count(delimiter)
    }
    assert len(completed) == 2
    slow = [event.position for event in events if isinstance(event, SlowStep)]
    assert completed <= {*slow}
    refreshed = {event.length - 1 for event in events if isinstance(event, MemoryRefreshed)}
    assert completed <= refreshed
    assert len(slow) < answer.fast_steps


def test_a_call_is_told(last_call):
    found = [event for event in last_call[2] if isinstance(event, ToolCallFound)]
    assert [(event.index, event.name, event.valid) for event in found] == [(0, "look_up", True)]


def test_what_a_tool_said_twenty_calls_ago_is_known(session, last_call):
    """With an eighth of the context in memory, and no slow step on the way to the answer."""
    made = json.loads(re.sub("</?tool_call>", "", last_call[1].text))
    session.messages += [
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": made}]},
        {"role": "tool", "content": result(20)},
        {"role": "user", "content": "What is the code word of the harbour gate?"},
    ]
    prompt = session.prompt()
    answer = session.turn(POLICY, "none", max_new_tokens=16)
    kinds = [type(event) for event in session.events if isinstance(event, PrefillProgress | MemoryRefreshed)]
    assert [kind for kind, _ in groupby(kinds)] == [PrefillProgress, MemoryRefreshed], (
        "refreshed once it is read"
    )
    (refreshed,) = (event for event in session.events if isinstance(event, MemoryRefreshed))
    assert refreshed.length == len(prompt)
    assert refreshed.positions <= len(prompt) // 8 + 1
    assert (answer.slow_steps, answer.fast_steps) == (0, answer.completion_tokens - 1)
    assert CODE in answer.text

    recent = session.turn(POLICY.but(selector="recent"), "none", max_new_tokens=16)
    assert recent.fast_steps > 8
    assert CODE not in recent.text, "it is in the prompt's end, so this test shows nothing"
