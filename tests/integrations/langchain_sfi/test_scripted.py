"""LangChain's own tests on a scripted model in verified mode: judgement is the script's, the rest is ours."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel

from langchain_sfi import SFIChatModel
from sfi_agent import Runtime
from tests.integrations.langchain_sfi.scripted import Message, scripted_runtime
from tests.integrations.langchain_sfi.standard import SFIChatModelTests


def call(name: str, /, **arguments: Any) -> str:
    """A call as the default prompt asks for it."""
    written = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{written}\n</tool_call>"


JOKE = json.dumps({"setup": "Why do cats purr?", "punchline": "They idle."})
ANSWERS = [
    (r"<tool_response>\nIt's sunny", "It is sunny in San Francisco."),
    (r"weather in San Francisco", call("get_weather", location="San Francisco, CA")),
    (r"magic_function_no_args\(\)", call("magic_function_no_args")),
    (r"magic_function\((\d)\)", call("magic_function", input=3)),
    (r"Pirate", call("greeting_generator", answer_style="pirate")),
    (r"customer named '(.*?)'", None),
    (r"joke", JOKE),
    (r"3 \+ 4", call("my_adder_tool", a=3, b=4)),
]


def script(messages: list[Message]) -> str:
    asked = messages[-1][1]
    for pattern, answer in ANSWERS:
        if found := re.search(pattern, asked):
            return answer or call("unicode_customer", customer_name=found[1], description="A company")
    if "magic_function" in messages[0][1]:
        return call("magic_function", input=3)
    return "One, two, three, four, five: hello to all of you."


@pytest.fixture(scope="module")
def scripted() -> Iterator[Runtime]:
    with scripted_runtime(script) as runtime:
        runtime.model.misled = True
        yield runtime


class TestScriptedModel(SFIChatModelTests):
    @pytest.fixture
    def model(self, scripted: Runtime) -> BaseChatModel:
        return SFIChatModel(runtime=scripted, mode="verified", max_tokens=300, max_string=40)

    @property
    def supports_model_override(self) -> bool:
        return False  # one runtime, one model
