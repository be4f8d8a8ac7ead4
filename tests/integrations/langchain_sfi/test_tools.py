"""Binding tools and schemas, and what comes back, whole and streamed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, NotRequired

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from langchain_sfi import SFIChatModel
from langchain_sfi.outputs import AnswerReader, unreadable
from sfi_agent import Registry, Runtime
from sfi_agent.errors import GrammarError, SettingError
from sfi_agent.events import ToolCallFound
from sfi_agent.policy import MODES
from sfi_agent.runtime.result import TurnResult
from sfi_agent.tools import FAMILIES, ResponseParser
from tests.integrations.langchain_sfi.conftest import Recorder
from tests.integrations.langchain_sfi.scripted import Message, scripted_runtime
from tests.integrations.langchain_sfi.test_scripted import call


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


class Point(BaseModel):
    """A point."""

    x: float
    y: float | None = None


class Shape(BaseModel):
    """A shape with its corners."""

    name: str = Field(max_length=12)
    corners: list[Point] = Field(max_length=3)
    closed: bool


class OptionalDict(TypedDict):
    """LangChain makes no schema of it."""

    side: NotRequired[int]


class ShapeDict(TypedDict):
    """A shape."""

    name: str
    sides: int


SAYS: list[str] = [""]
"""What the model says next."""
TOLD = Recorder()


def says(_: list[Message]) -> str:
    return SAYS[0]


@pytest.fixture(scope="module")
def scripted() -> Iterator[Runtime]:
    with scripted_runtime(says, Registry([TOLD])) as runtime:
        yield runtime


@pytest.fixture
def chat(scripted: Runtime) -> SFIChatModel:
    SAYS[0] = "Just words."
    return SFIChatModel(runtime=scripted, max_tokens=300, max_string=16)


def merged(chunks: Iterator[Any]) -> AIMessageChunk:
    first, *rest = chunks
    return sum(rest, first)


@pytest.mark.parametrize(
    "choice", ["any", "required", True, "add", {"type": "function", "function": {"name": "add"}}]
)
def test_a_forced_call_is_a_call_whatever_the_model_wants(chat: SFIChatModel, choice: Any) -> None:
    answer = chat.bind_tools([add], tool_choice=choice).invoke("Hi")
    (made,) = answer.tool_calls
    assert made["name"] == "add"
    assert made["args"].keys() == {"a", "b"}
    assert all(isinstance(value, int) for value in made["args"].values())
    assert (answer.content, answer.invalid_tool_calls) == ("", [])
    assert answer.response_metadata["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("choice", ["none", False])
def test_none_is_text_even_where_the_model_wants_a_call(chat: SFIChatModel, choice: Any) -> None:
    SAYS[0] = call("add", a=1, b=2)
    answer = chat.bind_tools([add], tool_choice=choice).invoke("Hi")
    assert (answer.tool_calls, answer.content) == ([], SAYS[0])


def test_auto_is_what_the_model_wants(chat: SFIChatModel) -> None:
    bound = chat.bind_tools([add])
    assert bound.invoke("Hi").content == "Just words."
    SAYS[0] = "I add:\n" + call("add", a=1, b=2)
    answer = bound.invoke("Hi")
    assert answer.content == "I add:"
    assert [made["args"] for made in answer.tool_calls] == [{"a": 1, "b": 2}]


@pytest.mark.parametrize("streamed", [False, True])
def test_calls_are_told_as_events(chat: SFIChatModel, streamed: bool) -> None:
    SAYS[0] = call("add", a=1, b=2) + "\n" + call("add", a=3, b=4)
    bound, turn = chat.bind_tools([add]), {"session_id": f"told-{streamed}", "max_tokens": 100}
    TOLD.events.clear()
    if streamed:
        merged(bound.stream("Hi", **turn))
    else:
        bound.invoke("Hi", **turn)
    found = [event for event in TOLD.events if isinstance(event, ToolCallFound)]
    # The second call is cut.
    told = [(event.turn, event.index, event.name, event.valid) for event in found]
    assert told == [(1, 0, "add", True), (1, 1, "add", False)]
    chat.bind_tools([add], tool_choice="none").invoke("Hi", **turn)
    assert sum(isinstance(event, ToolCallFound) for event in TOLD.events) == 2


def test_a_copied_result_has_no_delimiters(chat: SFIChatModel) -> None:
    """Small models begin their answers as results begin."""
    SAYS[0] = "<tool_response>\n42\n</tool_response>"
    asked = [
        HumanMessage("17 + 25?"),
        AIMessage("", tool_calls=[{"name": "add", "args": {"a": 17, "b": 25}, "id": "1"}]),
        ToolMessage("42", tool_call_id="1"),
    ]
    for model in (chat, chat.bind_tools([add])):
        assert model.invoke(asked).content == "42"
        assert merged(model.stream(asked)).content == "42"
    assert chat.invoke("Say it.").content == SAYS[0]


def test_with_auto_the_grammar_holds_once_a_call_opens(chat: SFIChatModel) -> None:
    """The model wants a tool that does not exist, then a string for a number: neither can be said."""
    for wanted in ('<tool_call>\n{"name": "delete"', '<tool_call>\n{"name": "add", "arguments": {"a": "x"'):
        SAYS[0] = "Well. " + wanted
        answer = chat.bind_tools([add], parallel_tool_calls=False).invoke("Hi")
        assert answer.content.startswith("Well.")
        (made,) = answer.tool_calls
        assert made["name"] == "add"
        assert isinstance(made["args"]["a"], int)


def test_parallel_calls(chat: SFIChatModel) -> None:
    SAYS[0] = "\n".join(call("add", a=n, b=0) for n in range(3))
    for settings_ in ({}, {"tool_choice": "any", "parallel_tool_calls": True}):
        answer = chat.bind_tools([add], **settings_).invoke("Hi")
        assert [made["args"]["a"] for made in answer.tool_calls] == [0, 1, 2]
        assert len({made["id"] for made in answer.tool_calls}) == 3
    for settings_ in ({"tool_choice": "any"}, {"tool_choice": "any", "parallel_tool_calls": False}):
        assert len(chat.bind_tools([add], **settings_).invoke("Hi").tool_calls) == 1


def test_a_stream_is_the_whole_in_pieces(chat: SFIChatModel) -> None:
    SAYS[0] = "<think>\nHow?\n</think>\n\nSo: " + call("add", a=17, b=25) + "\n" + call("add", a=1, b=2)
    bound = chat.bind_tools([add])
    whole, chunks = bound.invoke("Hi"), list(bound.stream("Hi"))
    full = merged(iter(chunks))
    bare = [{k: v for k, v in made.items() if k != "id"} for made in whole.tool_calls]
    assert [{k: v for k, v in made.items() if k != "id"} for made in full.tool_calls] == bare
    assert full.content == whole.content == "So:"
    assert full.additional_kwargs == whole.additional_kwargs == {"reasoning_content": "How?"}
    assert [block["type"] for block in whole.content_blocks] == [
        "reasoning",
        "text",
        "tool_call",
        "tool_call",
    ]
    arguments = [c["args"] for chunk in chunks for c in chunk.tool_call_chunks if c["index"] == 0]
    assert len(arguments) > 5, "arguments come as they are written"
    assert "".join(filter(None, arguments)) == '{"a": 17, "b": 25}'


async def test_tools_in_every_way_of_calling(chat: SFIChatModel) -> None:
    SAYS[0] = call("add", a=1, b=2)
    bound = chat.bind_tools([add])
    answers = [await bound.ainvoke("Hi"), merged(iter([chunk async for chunk in bound.astream("Hi")]))]
    answers += [*bound.batch(["Hi"]), chat.invoke("Hi", tools=[add])]
    for answer in answers:
        assert [made["args"] for made in answer.tool_calls] == [{"a": 1, "b": 2}]


def test_a_call_that_max_tokens_cuts_is_invalid_whole_and_streamed(chat: SFIChatModel) -> None:
    SAYS[0] = call("add", a=123456, b=2)
    for room in (1, 14, 30, 45, 61):
        bound = chat.bind_tools([add], tool_choice="any", max_tokens=room)
        for answer in (bound.invoke("Hi"), merged(bound.stream("Hi"))):
            assert (answer.tool_calls, answer.text) == ([], "")
            assert len(answer.invalid_tool_calls) == 1
            assert answer.response_metadata["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("settings_", "said"),
    [
        (
            {"tool_choice": "subtract"},
            "tool_choice: must be one of auto, any, required, none, add .given 'subtract'",
        ),
        ({"tool_choice": 3}, "tool_choice: must be auto, any"),
        ({"parallel_tool_calls": "yes"}, "parallel_tool_calls: must be True, False or None"),
        ({"response_format": {"type": "xml"}}, "response_format: must be"),
        ({"response_format": {"type": "json_schema"}}, "response_format: must be"),
    ],
)
def test_a_bad_setting_is_told_when_binding(chat: SFIChatModel, settings_: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said) as caught:
        chat.bind_tools([add], **settings_)
    assert "\n" not in str(caught.value)
    with pytest.raises(SettingError, match=said):
        chat.invoke("Hi", tools=[add], **settings_)


def test_a_tool_that_is_none_is_told(chat: SFIChatModel) -> None:
    with pytest.raises(SettingError, match="tools: '3' is no pydantic class"):
        chat.bind_tools([3])
    with pytest.raises(SettingError, match="tool_choice: 'any' needs at least one tool"):
        chat.bind_tools([], tool_choice="any")
    listed = {"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}
    with pytest.raises(SettingError, match="parameters of 'f' must be a JSON schema of an object"):
        chat.bind_tools([listed], tool_choice="any")


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
@pytest.mark.parametrize("schema", [{"type": "object"}, "Shape", int, list[int]])
def test_a_schema_that_is_none_is_told_in_one_line(chat: SFIChatModel, schema: Any, method: str) -> None:
    with pytest.raises(SettingError, match="schema: must be a pydantic class") as caught:
        chat.with_structured_output(schema, method=method)
    assert "\n" not in str(caught.value)


def test_why_a_typed_dict_is_refused_is_told(chat: SFIChatModel) -> None:
    with pytest.raises(SettingError, match=r"Optional.*: NotRequired accepts only"):
        chat.with_structured_output(OptionalDict, method="json_schema")


def test_a_session_goes_on_where_the_template_drops_what_was_thought(chat: SFIChatModel) -> None:
    """The history has no reasoning: what is common is reused, and the answer is that of a new session."""
    SAYS[0] = "<think>\nLong thoughts.\n</think>\n\nYes."
    asked, before = [HumanMessage("Is it so? " * 20)], 0
    for turn in range(3):
        answer = chat.invoke(asked, session_id="thinking", mode=MODES[turn])
        alone = chat.invoke(asked, mode=MODES[turn])
        assert (answer.text, answer.additional_kwargs) == ("Yes.", {"reasoning_content": "Long thoughts."})
        assert (alone.text, alone.additional_kwargs) == (answer.text, answer.additional_kwargs)
        spent = answer.usage_metadata
        assert before <= spent["input_token_details"]["cache_read"] < spent["input_tokens"]
        before = spent["input_tokens"] - len("assistant\n") - 1
        asked += [answer, HumanMessage("And so?")]


def test_strict_decides_about_what_cannot_be_enforced(chat: SFIChatModel) -> None:
    items = {"enum": ["x", "y"]}
    unique = {"type": "array", "items": items, "maxItems": 2, "uniqueItems": True}
    schema = {"title": "pick", "type": "object", "properties": {"n": unique}}
    assert chat.bind_tools([schema]).invoke("Hi").content == "Just words."
    with pytest.raises(GrammarError, match=r"uniqueItems.*strict=False") as caught:
        chat.bind_tools([schema], strict=True).invoke("Hi")
    assert len(str(caught.value)) < 250
    with pytest.raises(GrammarError, match="uniqueItems"):
        chat.bind_tools([schema], tool_choice="any").invoke("Hi")
    assert chat.bind_tools([schema], tool_choice="any", strict=False).invoke("Hi").tool_calls


def test_tools_are_part_of_the_prompt_and_counted(chat: SFIChatModel) -> None:
    asked = [HumanMessage("Hi")]
    answer = chat.bind_tools([add]).invoke(asked)
    counted = chat.get_num_tokens_from_messages(asked, tools=[add])
    assert counted == answer.usage_metadata["input_tokens"]
    assert counted > chat.get_num_tokens_from_messages(asked) + len(add.description)


def test_what_may_be_called_does_not_change_the_prompt(chat: SFIChatModel) -> None:
    """So a session keeps its beginning from turn to turn, and earlier calls read as they were written."""
    SAYS[0] = call("add", a=1, b=2)
    asked, thread = [HumanMessage("Hi")], {"session_id": "calls"}
    answer = chat.bind_tools([add], tool_choice="any").invoke(asked, **thread)
    asked += [answer, ToolMessage("3", tool_call_id=answer.tool_calls[0]["id"])]
    again = chat.bind_tools([add], tool_choice="none").invoke(asked, **thread)
    kept = answer.usage_metadata["input_tokens"]  # the call itself was written by fast steps
    assert again.usage_metadata["input_token_details"]["cache_read"] >= kept


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
@pytest.mark.parametrize("mode", MODES)
def test_structured_output_of_a_model_that_knows_nothing(chat: SFIChatModel, method: str, mode: str) -> None:
    """It wants words; nested, optional and limited fields hold by grammar alone."""
    shape = chat.with_structured_output(Shape, method=method, mode=mode).invoke("Draw.")
    assert isinstance(shape, Shape)
    assert len(shape.corners) <= 3
    as_dict = chat.with_structured_output(ShapeDict, method=method, mode=mode).invoke("Draw.")
    assert as_dict.keys() == {"name", "sides"}
    by_schema = chat.with_structured_output(Shape.model_json_schema(), method=method, mode=mode).invoke(
        "Draw."
    )
    assert Shape.model_validate(by_schema)


class Branch(BaseModel):
    """A branch with branches."""

    length: int = Field(ge=0, le=9)
    branches: list[Branch] = Field(max_length=1)


class Tree(BaseModel):
    """A tree."""

    trunk: Branch


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
@pytest.mark.parametrize("schema", [Tree, Branch])
def test_a_schema_that_refers_to_itself_holds_at_every_depth(
    chat: SFIChatModel, method: str, schema: type[BaseModel]
) -> None:
    """LangChain's own conversion leaves anything below the first level."""
    branch = '{"length": 1, "branches": [{"length": 2, "branches": [17'
    wanted = branch if schema is Branch else f'{{"trunk": {branch}'
    SAYS[0] = call("x").replace("{}", wanted).replace('"x"', f'"{schema.__name__}"')
    SAYS[0] = SAYS[0] if method == "function_calling" else wanted
    grown = chat.with_structured_output(schema, method=method).invoke("Grow.")
    assert isinstance(grown, schema)
    assert (grown if schema is Branch else grown.trunk).branches[0].length == 2


def test_a_tool_whose_schema_refers_to_itself(chat: SFIChatModel) -> None:
    @tool
    def cut(tree: Branch) -> str:
        """Cut a tree."""
        return str(tree.length)

    SAYS[0] = call("cut", tree={"length": 1, "branches": [{"length": 2, "branches": ["x"]}]})
    (made,) = chat.bind_tools([cut], tool_choice="any").invoke("Cut.").tool_calls
    assert Branch.model_validate(made["args"]["tree"]).branches[0].length == 2


def test_any_object_without_a_schema(chat: SFIChatModel) -> None:
    SAYS[0] = '{"any": ["thing"]}'
    assert chat.with_structured_output(method="json_mode").invoke("Hi") == {"any": ["thing"]}
    with pytest.raises(SettingError, match="needs one"):
        chat.with_structured_output()
    with pytest.raises(SettingError, match="method: must be one of json_schema"):
        chat.with_structured_output(Shape, method="xml")


METHODS = pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
SCHEMAS = pytest.mark.parametrize("schema", [Shape, ShapeDict])


@METHODS
@SCHEMAS
async def test_a_cut_structured_answer_raises_whole_and_streamed(
    chat: SFIChatModel, method: str, schema: type
) -> None:
    """At every place, also where what came is all that the class needs but the number may go on."""
    wanted = (
        '{"name": "x", "sides": 12345' if schema is ShapeDict else '{"name": "x", "corners": [], "closed":'
    )
    SAYS[0] = f'<tool_call>\n{{"name": "{schema.__name__}", "arguments": {wanted}'
    SAYS[0] = SAYS[0] if method == "function_calling" else wanted
    for room in (4, len(SAYS[0]) - 3, len(SAYS[0])):
        model = chat.with_structured_output(schema, method=method, max_tokens=room)
        with pytest.raises(OutputParserException, match="allow more"):
            model.invoke("Hi")
        with pytest.raises(OutputParserException, match="allow more"):
            list(model.stream("Hi"))
        with pytest.raises(OutputParserException, match="allow more"):
            [part async for part in model.astream("Hi")]


@METHODS
@SCHEMAS
async def test_a_structured_stream_ends_with_the_whole_answer(
    chat: SFIChatModel, method: str, schema: type
) -> None:
    SAYS[0] = '{"name": "x", "corners": [], "closed": true, "sides": 3}'
    if method == "function_calling":
        SAYS[0] = f'<tool_call>\n{{"name": "{schema.__name__}", "arguments": {SAYS[0]}}}\n</tool_call>'
    model = chat.with_structured_output(schema, method=method)
    whole = model.invoke("Hi")
    assert isinstance(whole, BaseModel if schema is Shape else dict)
    assert list(model.stream("Hi"))[-1] == [part async for part in model.astream("Hi")][-1] == whole
    unstreamed = SFIChatModel(runtime=chat.runtime, max_tokens=300, disable_streaming=True)
    (last,) = unstreamed.with_structured_output(schema, method=method, max_string=16).stream("Hi")
    assert last == whole


@METHODS
async def test_include_raw_gives_the_error_of_a_cut_answer(chat: SFIChatModel, method: str) -> None:
    model = chat.with_structured_output(Shape, method=method, include_raw=True)
    assert isinstance(model.invoke("Hi")["parsed"], Shape)
    short = chat.with_structured_output(Shape, method=method, include_raw=True, max_tokens=12)
    for cut in (short.invoke("Hi"), merged(short.stream("Hi")), await short.ainvoke("Hi")):
        assert isinstance(cut["raw"], AIMessage)
        assert cut["parsed"] is None
        assert "allow more" in str(cut["parsing_error"])


def test_a_schema_beside_tools(chat: SFIChatModel) -> None:
    """A call, or else the answer in JSON."""
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": Shape.model_json_schema()}}
    bound = chat.bind_tools([add], response_format=form)
    SAYS[0] = call("add", a=1, b=2)
    assert bound.invoke("Hi").tool_calls[0]["args"] == {"a": 1, "b": 2}
    SAYS[0] = '{"name": "x", "corners": [], "closed": true}'
    assert Shape.model_validate_json(bound.invoke("Hi").text).closed


RESULT = TurnResult("", (), 1, 0, 1, "length", "dense", 1, 0, 0, 0, 1.0, 0.0, 0.0, 1.0, None)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_cut_stream_never_becomes_a_valid_call(data: st.DataObject) -> None:
    arguments = {"path": "/srv/a b", "deep": [{"x": "}\\"}, [1.5, None]], "ü": {"empty": {}}}
    text = call("remove", **arguments)
    cut = data.draw(st.integers(0, len(text)))
    reader, parser = AnswerReader("m"), ResponseParser(FAMILIES["hermes"], ["remove"])
    pieces = [text[:cut][at : at + 5] for at in range(0, cut, 5)]
    events = [event for piece in pieces for event in parser.feed(piece)]
    chunks = [c.message for item in [*events, *parser.finish(), RESULT] for c in reader.chunks(item)]
    full = merged(iter(chunks))
    complete = cut >= len(text) - len("\n</tool_call>")
    assert [made["args"] for made in full.tool_calls] == ([arguments] if complete else [])
    assert len(full.invalid_tool_calls) == (not complete and cut >= len("<tool_call>"))


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet='{}[]",:\\a1 ', max_size=14))
def test_what_is_marked_unreadable_is_invalid(arguments: str) -> None:
    chunk = {"name": "f", "args": arguments + unreadable(arguments), "id": "1", "index": 0}
    message = AIMessageChunk("", tool_call_chunks=[chunk], chunk_position="last")
    assert (len(message.tool_calls), len(message.invalid_tool_calls)) == (0, 1)


def test_messages_of_a_template_that_knows_tools(scripted: Runtime) -> None:
    """Such a template gets the tools and the roles as they are."""
    template: str = scripted.tokenizer.chat_template
    told = "{% if tools %}{% for t in tools %}{{ t | tojson }}{% endfor %}<tool_call>{% endif %}" + template
    from sfi_agent.tools import Ask, Dialect, Tool, choice_of

    class Copy:
        chat_template = told
        decode: Callable[..., str] = scripted.tokenizer.decode

        def apply_chat_template(self, messages: Any, tools: Any = None, **given: Any) -> str:
            return scripted.tokenizer.apply_chat_template(messages, tools=tools, chat_template=told, **given)

    dialect = Dialect(Copy())
    tools = (Tool("add"),)
    messages = [{"role": "tool", "content": "3", "tool_call_id": "x"}]
    assert dialect.knows_tools
    assert dialect.family.name == "hermes"
    assert dialect.prompt(messages, Ask(tools, choice_of(tools, None))) == (messages, [tools[0].openai])
    assert json.dumps(tools[0].openai)
