"""The texts that measurements read: exact lengths, the same each time, and what their names promise."""

from __future__ import annotations

import ast
import json
from random import Random

import pytest

from sfi_agent import Runtime
from sfi_agent.errors import PromptError, SettingError
from sfi_agent.evaluate import library, transcripts
from sfi_agent.evaluate.workloads import WORKLOADS, workload


@pytest.mark.parametrize("name", WORKLOADS)
@pytest.mark.parametrize("tokens", [1, 300, 20_000])
def test_a_workload_has_exactly_the_tokens_asked_for(shared, name, tokens):
    ids = workload(name, shared, tokens)
    assert len(ids) == tokens
    assert ids == workload(name, shared, tokens)


@pytest.mark.parametrize("name", WORKLOADS)
def test_other_seeds_give_other_text(shared, name):
    later = slice(2000, 4000)  # a heading may be the same
    texts = [tuple(workload(name, shared, 4000, seed=seed)[later]) for seed in range(5)]
    assert len(set(texts)) == 5


@pytest.mark.parametrize("name", ["prose", "code", "chat"])
def test_little_of_a_text_is_said_twice(shared, name):
    text = shared.tokenizer.decode(workload(name, shared, 40_000))
    pieces = [text[at : at + 60] for at in range(0, len(text) - 60, 7)]
    again = sum(text.count(piece) > 1 for piece in pieces[::20])
    assert again < 0.2 * len(pieces[::20])


def test_code_is_python(shared):
    text = shared.tokenizer.decode(workload("code", shared, 3000))
    first = next(library.sources())
    assert text.startswith(first[:1000])
    ast.parse(first)


def test_prose_reads_as_prose(shared):
    text = shared.tokenizer.decode(workload("prose", shared, 30_000, seed=3))
    assert sum(letter.isalpha() or letter.isspace() for letter in text) > 0.9 * len(text)
    assert not any(sign in text for sign in ("::=", ">>>", "***", "\n    "))
    whole = text.split("\n\n")[:-1]
    assert all(line[-1] in '.:?!)”’"' for line in whole)
    assert len(set(whole)) == len(whole)


def test_transcripts_are_json_whose_identifiers_come_back(shared):
    text = shared.tokenizer.decode(workload("json", shared, 40_000))
    messages = [json.loads(line) for line in text.splitlines()[:-1]]
    assert {message["role"] for message in messages} == {"system", "user", "assistant", "tool"}
    calls = [call for message in messages for call in message.get("tool_calls", ())]
    assert {call["name"] for call in calls} == set(transcripts.TOOLS)
    for call in calls:
        assert set(call["arguments"]) == set(transcripts.TOOLS[call["name"]][1])
    results = [message["tool_call_id"] for message in messages if message["role"] == "tool"]
    assert results == [call["id"] for call in calls][: len(results)]
    tracked = [call["arguments"]["shipment_id"] for call in calls if call["name"] == "track_shipment"]
    assert sum(text.count(id) > 3 for id in tracked) > len(tracked) / 2
    assert not text.isascii()


def test_an_episodes_request_names_what_its_call_needs():
    source = transcripts.episodes(Random(0))
    for episode in (next(source) for _ in range(50)):
        assert episode.rest[0]["tool_calls"][0].items() >= episode.call.items()
        for value in episode.call["arguments"].values():
            assert str(value) in episode.request["content"]


def test_chat_goes_through_the_template_where_there_is_one(tiny, shared):
    templated = shared.tokenizer.decode(workload("chat", shared, 3000))
    assert templated.startswith("<bos>user: ")
    assert templated.count("<bos>assistant: ") > 3
    bare = type(tiny.tokenizer)(tokenizer_object=tiny.tokenizer.backend_tokenizer, eos_token="<eos>")
    with Runtime.load(tiny.model(), tokenizer=bare) as runtime:
        text = bare.decode(workload("chat", runtime, 3000))
    assert text.startswith("User: ")
    assert "\n\nAssistant: " in text


def test_what_cannot_be_had(shared, monkeypatch):
    with pytest.raises(SettingError, match="unknown workload 'poetry'; known: chat, code, json, prose"):
        workload("poetry", shared, 10)
    with pytest.raises(PromptError, match="at least 1 token"):
        workload("prose", shared, 0)
    monkeypatch.setattr(library, "definitions", lambda: iter(()))
    with pytest.raises(PromptError, match=r"workload 'prose' has \d+ tokens for this model \(asked for"):
        workload("prose", shared, 10**6)


def test_a_python_without_sources_says_so(shared, monkeypatch, tmp_path):
    monkeypatch.setattr(library, "_folder", lambda: tmp_path)
    library.modules.cache_clear()
    with pytest.raises(PromptError, match="no sources of the standard library"):
        workload("code", shared, 10)
    library.modules.cache_clear()
