"""Long sessions of langchain's agent and a graph of langgraph: a scripted model in the real engine."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import wrap_tool_call
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from langchain_sfi import SFIChatModel
from sfi_agent import Runtime
from tests.integrations.langchain_sfi.scripted import Message, scripted_runtime
from tests.integrations.langchain_sfi.test_scripted import call

TURNS, CALLS = 2, 8
"""Requests, and calls that each of them takes."""
CITIES = ["Tromsø", "東京", "São Paulo", "القاهرة", "Zürich 🏔", "서울", "Αθήνα", "Łódź"]
PAGE = "The register of page {}: " + "entry; " * 290
SYSTEM = "You keep the register."


@tool
def read_page(number: int) -> str:
    """Read a page of the register, some 2,000 characters."""
    return PAGE.format(number)


@tool
def find_city(name: str) -> str:
    """Find a city by its own name."""
    return f"{name} is on page {CITIES.index(name)}. «{name}»"


@tool
def delete_page(number: int) -> str:
    """Delete a page."""
    raise PermissionError(f"page {number} is locked 🔒")


TOOLS = [read_page, find_city, delete_page]


def planned(index: int) -> tuple[str, dict[str, Any]]:
    """The call of that number in the session."""
    if index % CALLS == 2:
        return "read_page", {"number": index}
    if index % CALLS == 5:
        return "delete_page", {"number": index}
    return "find_city", {"name": CITIES[index % len(CITIES)]}


def script(messages: list[Message]) -> str:
    """The next planned call; after eight of a request, an answer that quotes the last two results."""
    if messages[-1][1] == "Find it.":
        return call("find_city", name=CITIES[0])
    results = [text for role, text in messages if role == "user" and "<tool_response>" in text]
    asked = sum(text.startswith("Do part") for _, text in messages)
    if len(results) < asked * CALLS:
        name, arguments = planned(len(results))
        return call(name, **arguments)
    quoted = [re.sub(r"</?tool_response>", "", text).strip() for text in results[-3:-1]]
    return f"Done {asked}: {' / '.join(quoted)}"


@pytest.fixture(scope="module")
def scripted() -> Iterator[Runtime]:
    with scripted_runtime(script) as runtime:
        yield runtime


def agent_of_langchain(model: SFIChatModel) -> Any:
    @wrap_tool_call
    def told(request: Any, handler: Any) -> ToolMessage:
        try:
            return handler(request)
        except PermissionError as error:
            return ToolMessage(f"Error: {error}", tool_call_id=request.tool_call["id"], status="error")

    return create_agent(model, TOOLS, system_prompt=SYSTEM, middleware=[told], checkpointer=InMemorySaver())


def graph_of_langgraph(model: SFIChatModel) -> Any:
    bound = model.bind_tools(TOOLS)
    graph = StateGraph(MessagesState)
    graph.add_node(
        "model", lambda state: {"messages": [bound.invoke([SystemMessage(SYSTEM), *state["messages"]])]}
    )
    graph.add_node("tools", ToolNode(TOOLS, handle_tool_errors=lambda error: f"Error: {error}"))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_condition)
    graph.add_edge("tools", "model")
    return graph.compile(checkpointer=InMemorySaver())


@pytest.mark.parametrize(("made", "mode"), [(agent_of_langchain, "sfi"), (graph_of_langgraph, "verified")])
def test_a_long_session(scripted: Runtime, made: Callable[[SFIChatModel], Any], mode: str) -> None:
    scripted.model.misled = mode == "verified"
    # Drafts of a fixed length: adaptive ones depend on what this machine's steps cost.
    policy = {"adaptive_draft": False, "max_draft": 4}
    agent = made(SFIChatModel(runtime=scripted, mode=mode, policy=policy, max_tokens=400))
    thread = {"configurable": {"thread_id": f"{made.__name__}-{mode}"}, "recursion_limit": 4 * CALLS}
    for turn in range(TURNS):
        messages = agent.invoke({"messages": [HumanMessage(f"Do part {turn}.")]}, thread)["messages"]
    answers = [message for message in messages if isinstance(message, AIMessage)]
    made_calls = [made_call for answer in answers for made_call in answer.tool_calls]
    assert [(c["name"], c["args"]) for c in made_calls] == [planned(index) for index in range(TURNS * CALLS)]
    assert not any(answer.invalid_tool_calls for answer in answers)
    results = [message for message in messages if isinstance(message, ToolMessage)]
    assert [result.tool_call_id for result in results] == [made_call["id"] for made_call in made_calls]
    assert sum(result.status == "error" for result in results) == TURNS
    assert all(len(r.content) > 2000 for r in results if r.name == "read_page")
    assert (
        answers[-1].text
        == f"Done {TURNS}: Error: page {TURNS * CALLS - 3} is locked 🔒 / " + results[-2].content
    )
    spent = [answer.usage_metadata for answer in answers]
    assert spent[-1]["total_tokens"] > 3000
    for before, after in pairwise(spent):
        new = after["input_tokens"] - after["input_token_details"]["cache_read"]
        added = after["input_tokens"] - before["total_tokens"]
        written = before["output_tokens"] if mode == "sfi" else 0  # by fast steps, since the last slow one
        assert new <= added + written + 2, "each step of the agent pays for its new tokens only"
    drafts = [
        (answer.response_metadata["drafted"], answer.response_metadata["accepted"]) for answer in answers
    ]
    drafted, accepted = (sum(counts) for counts in zip(*drafts, strict=True))
    assert (0 < accepted < drafted) if mode == "verified" else drafted == 0


def test_a_structured_answer_of_an_agent(scripted: Runtime) -> None:
    """LangChain binds the schema as a tool, and ends when it is called."""
    scripted.model.misled = False
    schema = {"title": "find_city", "type": "object", "properties": {"name": {"type": "string"}}}
    agent = create_agent(SFIChatModel(runtime=scripted, max_tokens=200), [], response_format=schema)
    state = agent.invoke({"messages": [HumanMessage("Find it.")]})
    assert state["structured_response"] == {"name": CITIES[0]}
