"""The embedded model behind LangChain: an answer worth reading, and a session that goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
from langchain_core.messages import HumanMessage

from langchain_sfi import SFIChatModel
from langchain_sfi.runtimes import close_runtimes


@pytest.fixture(scope="module")
def smol(smollm2: Path):
    yield SFIChatModel(model=str(smollm2), max_tokens=16)
    close_runtimes()


def test_it_knows_a_capital(smol: SFIChatModel) -> None:
    answer = smol.invoke("What is the capital of France?")
    assert "Paris" in answer.text
    assert "".join(chunk.text for chunk in smol.stream("What is the capital of France?")) == answer.text


def test_it_remembers_its_thread(smol: SFIChatModel) -> None:
    thread = {"configurable": {"thread_id": "smol"}}
    first = HumanMessage("My name is Ingrid and I live in Oslo.")
    answer = smol.invoke([first], thread)
    again = smol.invoke([first, answer, HumanMessage("What is my name?")], thread)
    assert "Ingrid" in again.text
    assert again.usage_metadata["input_token_details"]["cache_read"] >= answer.usage_metadata["input_tokens"]
