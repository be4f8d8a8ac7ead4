"""The grammar of every family's calls: what it allows is what the parser reads."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from tokenizers import AddedToken

from sfi_agent import Sampling
from sfi_agent.errors import GrammarError, SettingError
from sfi_agent.grammar import Grammars
from sfi_agent.tools import (
    FAMILIES,
    Ask,
    CallFinished,
    CallInvalid,
    Dialect,
    Tool,
    ToolChoice,
    call_grammar,
    choice_of,
    family_of,
    parse_response,
)
from sfi_agent.tools.family import HEADERS

ADD = Tool("add", "Add.", {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
FIND = Tool("find", "Find.", {"type": "object", "properties": {"q": {"enum": ["x", "y"]}}, "required": ["q"]})
TOOLS = (ADD, FIND)
MARKS = (
    *("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "<think>", "</think>"),
    *HEADERS,
)
CALL = {
    "hermes": '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>',
    "llama3": '{"name": "add", "parameters": {"a": 1}}',
    "mistral": '[TOOL_CALLS][{"name": "add", "arguments": {"a": 1}}]',
    "mistral_named": '[TOOL_CALLS]add[ARGS]{"a": 1}',
    "json": '{"name": "add", "arguments": {"a": 1}}',
    "tagged": "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>",
    "harmony": '<|channel|>commentary to=functions.add <|constrain|>json<|message|>{"a": 1}',
}
TWO = {
    "hermes": CALL["hermes"] + "\n" + CALL["hermes"],
    "llama3": CALL["llama3"] + "; " + CALL["llama3"],
    "mistral": CALL["mistral"][:-1] + ', {"name": "find", "arguments": {"q": "x"}}]',
    "mistral_named": CALL["mistral_named"] * 2,
    "json": f"[{CALL['json']}, {CALL['json']}]",
    "tagged": CALL["tagged"] + "\n" + CALL["tagged"],
}
"""Harmony has one call in an answer, which ends it."""
WRONG = {
    family: [text.replace(good, bad) for good, bad in ((name, other), ("add", "sub"))] + [text[:-1]]
    for family, text in CALL.items()
    for name, other in [("=a>", "=b>") if family == "tagged" else ('"a"', '"b"')]
}


@pytest.fixture(scope="module", params=[False, True], ids=["spelled", "tokens"])
def tokenizer(tiny, request) -> Any:
    """Delimiters as bytes, as in the embedded model, or each as a token of its own."""
    made = copy.deepcopy(tiny.tokenizer)
    if request.param:
        made.add_tokens([AddedToken(mark, special=mark.startswith("[")) for mark in MARKS])
    return made


@pytest.fixture(scope="module")
def allows(tokenizer) -> Any:
    """``allows(text, family, ...)``: whether the grammar lets the text be a whole answer."""
    grammars = Grammars(tokenizer, len(tokenizer), frozenset({1}))

    def check(text: str, family: str, choice: Any = None, parallel: bool = True, **more: Any) -> bool:
        grammar = call_grammar(
            choice_of(TOOLS, choice), FAMILIES[family], tokenizer.get_added_vocab(), parallel=parallel, **more
        )
        constraint, ids = grammars.constraint(grammar), tokenizer(text)["input_ids"]
        for at, token in enumerate(ids):
            if not constraint.allowed(ids[:at])[token]:
                return False
        return bool(constraint.allowed(ids)[1])

    return check


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_forced(allows, family: str) -> None:
    for text in (CALL[family], TWO.get(family, CALL[family])):
        assert allows(text, family, "any")
        assert [
            e.name
            for e in parse_response(text, FAMILIES[family], ["add", "find"])
            if isinstance(e, CallFinished)
        ]
    assert family not in TWO or not allows(TWO[family], family, "any", parallel=False)
    assert not allows(CALL[family], family, "find")
    for text in ("", "Hello.", " " + CALL[family], CALL[family][:-1], CALL[family].replace("1", '"x"')):
        assert not allows(text, family, "any")


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_auto(allows, family: str) -> None:
    for text in ("", "Hello, < you [all]! 🎉\n", CALL[family], TWO.get(family, "")):
        assert allows(text, family), text
    for broken in WRONG[family]:
        assert not allows(broken, family), broken
    if family in ("hermes", "mistral", "mistral_named", "tagged"):
        assert allows(f"I will.\n{CALL[family]} Then {CALL[family]} ok", family)
        assert not allows(f"I will.\n{CALL[family][:-4]}no", family)


@pytest.mark.parametrize("family", ["hermes", "mistral", "mistral_named", "tagged"])
def test_auto_without_parallel_calls(allows, family: str) -> None:
    one = CALL[family]
    for text in ("", "Hello, < you [all]! 🎉\n", "<think>Hm.</think>\n", one, f"I will.\n{one} < [ok]"):
        assert allows(text, family, parallel=False), text
    for between in ("", "\n", ", ", "; ", " Then "):
        assert not allows(one + between + one, family, parallel=False), between
    assert allows(f"{one} Then {one}", family), "parallel"
    assert not allows(f"I will.\n{one[:-4]}no", family, parallel=False)


def test_an_opened_llama_tag(allows, tokenizer) -> None:
    tagged = "<|python_tag|>" + CALL["llama3"]
    assert allows("Hm. " + tagged, "llama3")
    assert allows(f"Hm. {tagged} So.", "llama3", parallel=False)
    assert allows(f"{tagged} {tagged}", "llama3")
    if "<|python_tag|>" in tokenizer.get_added_vocab():
        assert not allows(f"{tagged} {tagged}", "llama3", parallel=False)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_reasoning_comes_before_what_is_forced(allows, family: str) -> None:
    ends = "<|end|><|start|>assistant" if family == "harmony" else "</think>\n\n"
    thought = "1 + 1, so {add}.\n" + ends + CALL[family]
    assert allows(thought, family, "any", thinking=True)
    assert not allows(CALL[family], family, "any", thinking=True)
    assert not allows(thought[:-1], family, "any", thinking=True)
    events = parse_response(thought, FAMILIES[family], ["add"], thinking=True)
    assert [event.arguments for event in events if isinstance(event, CallFinished)] == [{"a": 1}]


def test_a_schema_beside_tools(allows) -> None:
    schema = {"type": "object", "properties": {"done": {"type": "boolean"}}, "required": ["done"]}
    assert allows('{"done": true}', "hermes", answer=schema)
    assert allows(CALL["hermes"], "hermes", answer=schema)
    assert not allows("Done.", "hermes", answer=schema)
    assert not allows('{"done": true}', "hermes", "any", answer=schema)


PEOPLE = Tool(
    "people",
    "Find people.",
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 9},
            "kind": {"enum": ["old", "new", 3]},
            "town": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "ages": {"type": "array", "items": {"$ref": "#/$defs/age"}, "maxItems": 2},
        },
        "required": ["name", "ages"],
        "$defs": {"age": {"type": "integer", "minimum": 0, "maximum": 150}},
    },
)


MIXED = {
    "type": "object",
    "properties": {
        "maybe": {"anyOf": [{"enum": ["red", "blue"], "type": "string"}, {"type": "null"}]},
        "named": {"$ref": "#/$defs/colour", "description": "It."},
        "either": {"anyOf": [{"const": "auto"}, {"type": "integer"}, {"type": "null"}]},
        "both": {"allOf": [{"type": "string", "minLength": 2}, {"maxLength": 2}]},
        "short": {"oneOf": [{"$ref": "#/$defs/two"}, {"type": "null"}, {"const": "a/b c\nd"}]},
        "nested": {"type": "string", "anyOf": [{"anyOf": [{"maxLength": 1}]}, {"type": "integer"}]},
    },
    "$defs": {
        "colour": {"type": "string", "enum": ["red", "1"]},
        "two": {"type": "string", "minLength": 1, "maxLength": 2},
    },
}


class TestTags:
    """Parameters that are tags hold to the schema, and mean what it says."""

    @staticmethod
    def written(**parameters: str) -> str:
        tags = "".join(f"<parameter={key}>\n{text}\n</parameter>\n" for key, text in parameters.items())
        return f"<tool_call>\n<function=people>\n{tags}</function>\n</tool_call>"

    @pytest.mark.parametrize(
        ("parameters", "expected"),
        [
            ({"name": "7", "ages": "[7, 8]"}, {"name": "7", "ages": [7, 8]}),
            ({"name": 'a\n<b> "', "ages": "[]"}, {"name": 'a\n<b> "', "ages": []}),
            (
                {"name": "", "kind": "3", "town": "null", "ages": "[1]"},
                {"name": "", "kind": 3, "town": None, "ages": [1]},
            ),
            ({"name": "é🎉", "kind": "old", "ages": "[0]"}, {"name": "é🎉", "kind": "old", "ages": [0]}),
        ],
    )
    def test_allowed(self, allows_people, parameters, expected) -> None:
        text = self.written(**parameters)
        assert allows_people(text)
        events = parse_response(text, FAMILIES["tagged"], {"people": PEOPLE.parameters})
        assert [event.arguments for event in events if isinstance(event, CallFinished)] == [expected]

    @pytest.mark.parametrize(
        "parameters",
        [
            {"name": "ten letters", "ages": "[]"},
            {"name": "x"},
            {"ages": "[]", "name": "x"},
            {"name": "x", "kind": "neu", "ages": "[]"},
            {"name": "x", "ages": "[151]"},
            {"name": "x", "ages": "[1, 2, 3]"},
        ],
    )
    def test_not_allowed(self, allows_people, parameters) -> None:
        assert not allows_people(self.written(**parameters))

    @pytest.mark.parametrize(
        ("key", "good", "bad"),
        [
            ("maybe", {"red": "red", "null": None}, ["green", "1", '"red"']),
            ("named", {"red": "red", "1": "1"}, ["green", '"red"', "2"]),
            ("either", {"auto": "auto", "7": 7, "null": None}, ["aut", "1.5", '"auto"']),
            ("both", {"xy": "xy"}, ["x", "xyz"]),
            ("short", {"ab": "ab", "null": None, "a/b c\nd": "a/b c\nd"}, ["abc", ""]),
            ("nested", {"a": "a", "5": "5"}, ["bc"]),
        ],
    )
    def test_strings_among_other_values(self, tokenizer, key, good, bad) -> None:
        choice = choice_of((Tool("people", "", {**MIXED, "required": [key]}),), "any")
        allows = allowing(tokenizer, choice)
        for text, value in good.items():
            whole = self.written(**{key: text})
            assert allows(whole), text
            events = parse_response(whole, FAMILIES["tagged"], {"people": MIXED})
            assert [e.arguments for e in events if isinstance(e, CallFinished)] == [{key: value}]
        for text in bad:
            assert not allows(self.written(**{key: text})), text

    @pytest.mark.parametrize(
        ("schema", "good", "bad"),
        [
            ({"type": "string", "enum": ["a", "b", 1, None, 10**400]}, ["a", "b"], [1, None]),
            ({"type": ["string", "null"], "enum": ["a", 1, None]}, ["a", None], [1]),
            ({"anyOf": [{"type": "string", "const": True}, {"type": "integer", "enum": [2, "x"]},
                        {"type": "string", "enum": ["2.0", 3]}]}, [2, "2.0"], [True, "x", 3]),
        ],
        ids=str,
    )  # fmt: skip
    def test_listed_values_of_other_types_are_none(self, tokenizer, schema, good, bad) -> None:
        parameters = {"type": "object", "properties": {"kind": schema}, "required": ["kind"]}
        allows = allowing(tokenizer, choice_of((Tool("people", "", parameters),), "any"))
        for value in (*good, *bad):
            whole = self.written(kind=value if isinstance(value, str) else json.dumps(value))
            assert allows(whole) == (value in good), value
            if value in good:
                events = parse_response(whole, FAMILIES["tagged"], {"people": parameters})
                assert [e.arguments for e in events if isinstance(e, CallFinished)] == [{"kind": value}]

    def test_a_string_that_a_reference_names_is_read_as_text(self) -> None:
        events = parse_response(self.written(named="3"), FAMILIES["tagged"], {"people": MIXED})
        assert [e.arguments for e in events if isinstance(e, CallFinished)] == [{"named": "3"}]

    @pytest.mark.parametrize("form", ["plain", "anyOf", "oneOf", "allOf", "$ref"])
    def test_what_it_cannot_hold_is_refused(self, form) -> None:
        day = {"type": "string", "format": "date"}
        held = {"plain": day, "$ref": {"$ref": "#/$defs/day"}}.get(form, {form: [day]})
        schema = {"type": "object", "properties": {"day": held}, "$defs": {"day": day}}
        choice = choice_of((Tool("when", "", schema),), "any")
        with pytest.raises(SettingError, match="no grammar holds 'day' to its 'format'"):
            call_grammar(choice, FAMILIES["tagged"], {}, parallel=False)
        assert call_grammar(choice, FAMILIES["tagged"], {}, parallel=False, lenient=True)


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("name", ["a.b-c", "Box[int]", "a/b", "ns:tool", "ünï", 'q"\\e', "functions"])
def test_a_name_is_read_as_it_is_written(tiny, family: str, name: str) -> None:
    """Generic pydantic classes have brackets in their names, and tools of servers have slashes and colons."""
    tools = (Tool(name, "", ADD.parameters),)
    grammar = call_grammar(choice_of(tools, "any"), FAMILIES[family], {}, parallel=False)
    written = json.dumps(name, ensure_ascii=False)[1:-1] if '"name"' in CALL[family] else name
    text = written.join(CALL[family].split("add"))
    constraint = Grammars(tiny.tokenizer, 259, frozenset({1})).constraint(grammar)
    ids = tiny.tokenizer(text)["input_ids"]
    assert all(constraint.allowed(ids[:at])[token] for at, token in enumerate(ids))
    assert constraint.allowed(ids)[1]
    made = parse_response(text, FAMILIES[family], {name: ADD.parameters}, forced=True)[-1]
    assert made == CallFinished(0, name, {"a": 1})


@pytest.mark.parametrize(
    ("family", "name"),
    [*((family, "") for family in sorted(FAMILIES)), ("harmony", "a b"), ("harmony", "a<b"),
     ("mistral_named", "a{b"), ("mistral_named", " a"), ("mistral_named", "a\n")],
)  # fmt: skip
def test_a_name_that_would_be_read_as_another_is_refused(family: str, name: str) -> None:
    tools = (Tool(name, "", ADD.parameters),)
    for choice in ("any", "auto"):
        with pytest.raises(GrammarError, match=r"give one (without|that)"):
            call_grammar(choice_of(tools, choice), FAMILIES[family], {}, parallel=False)


@pytest.fixture(scope="module")
def allows_people(tokenizer) -> Any:
    return allowing(tokenizer, choice_of((PEOPLE,), "any"))


def allowing(tokenizer: Any, choice: ToolChoice) -> Any:
    """Whether a text is a whole answer of tags."""
    grammars = Grammars(tokenizer, len(tokenizer), frozenset({1}))
    grammar = call_grammar(choice, FAMILIES["tagged"], tokenizer.get_added_vocab(), parallel=False)

    def check(text: str) -> bool:
        constraint, ids = grammars.constraint(grammar), tokenizer(text)["input_ids"]
        taken = all(constraint.allowed(ids[:at])[token] for at, token in enumerate(ids))
        return taken and bool(constraint.allowed(ids)[1])

    return check


@pytest.mark.parametrize("choice", [None, "any"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_whatever_a_random_model_says_is_read(tiny, shared, family: str, choice: str | None) -> None:
    chosen = choice_of(TOOLS, choice)
    grammar = call_grammar(chosen, FAMILIES[family], {}, parallel=True)
    for seed in range(2):
        sampling = Sampling.of(grammar=grammar, temperature=1.5, seed=seed, max_new_tokens=150)
        result = shared.generate(tiny.prompt(20, seed), policy=tiny.policy("verified"), sampling=sampling)
        schemas = {tool.name: tool.parameters for tool in TOOLS}
        events = parse_response(result.text, FAMILIES[family], schemas)
        invalid = [event for event in events if isinstance(event, CallInvalid)]
        assert not invalid or result.finish_reason == "length"
        if chosen.forced and result.finish_reason == "stop":
            assert any(isinstance(event, CallFinished) for event in events)


@pytest.mark.parametrize(
    ("template", "family"),
    [
        ("{{ messages }}", "hermes"),
        ("{% if tools %}<tool_call>{{ tools }}{% endif %}", "hermes"),
        ('{% if tools %}{{ tools }}{"name": x, "parameters": y}{% endif %}', "llama3"),
        ("{% if tools %}{{ tools }}<|python_tag|>{% endif %}", "llama3"),
        ("{% if tools %}{{ tools }}[TOOL_CALLS]{% endif %}", "mistral"),
        ("{% if tools %}{{ tools }}[TOOL_CALLS][ARGS]{% endif %}", "mistral_named"),
        ("{% if tools %}{{ tools }}{% endif %}", "json"),
        ("{% if tools %}{{ tools }}<tool_call><function=x>{% endif %}", "tagged"),
        ("{{ tools }}<|channel|>analysis<|message|>", "harmony"),
        ("{% if tools %}{{ raise_exception('no') }}{% endif %}", "hermes"),
    ],
)
def test_the_template_tells_the_family(tiny, template: str, family: str) -> None:
    tokenizer = copy.deepcopy(tiny.tokenizer)
    tokenizer.chat_template = template
    assert family_of(tokenizer).name == family


def test_special_delimiters_are_seen_and_other_special_tokens_are_not(tokenizer) -> None:
    dialect = Dialect(tokenizer)
    sampling = dialect.sampling(Sampling(), Ask(TOOLS, choice_of(TOOLS, None)), [5])
    from sfi_agent.runtime.text import TextStream

    text, shown = TextStream(tokenizer, visible=sampling.visible), ""
    for token in [0, *tokenizer("a <tool_call>ü")["input_ids"], 1]:
        shown += text.push(token)
    assert shown + text.flush() == "a <tool_call>ü"


@pytest.mark.parametrize(
    "wrong", [{}, {"function": {}}, {"type": "function", "function": {"name": 3}}, "add"]
)
def test_a_tool_without_a_name_is_refused(wrong: Any) -> None:
    with pytest.raises(SettingError, match="tools: each must be"):
        Tool.of(wrong)
    assert Tool.of(json.loads(json.dumps(ADD.openai))) == ADD
