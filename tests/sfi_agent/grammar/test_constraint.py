"""Constrained answers in every mode: valid, the same, and indifferent to what was drafted and refused."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfi_agent import Sampling
from sfi_agent.grammar import Grammars
from sfi_agent.policy import MODES, Grammar

NESTED: dict[str, Any] = {
    "type": "object",
    "properties": {
        "id": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "maxItems": 3},
        "at": {
            "type": "object",
            "properties": {"x": {"type": "number", "multipleOf": 0.5}, "y": {"type": ["number", "null"]}},
            "required": ["x", "y"],
        },
        "note": {"type": "string", "maxLength": 8},
    },
    "required": ["id", "tags", "at"],
}
STOP = 1


@pytest.fixture(scope="module")
def grammars(tiny) -> Grammars:
    return Grammars(tiny.tokenizer, 259, frozenset({STOP}))


def valid(text: str) -> bool:
    """Whether the text is JSON that follows ``NESTED``, checked by hand."""
    value = json.loads(text)
    assert list(value)[:3] == ["id", "tags", "at"]
    assert set(value) <= set(NESTED["properties"])
    assert 0 <= value["id"] <= 99
    assert set(value["tags"]) <= {"red", "green", "blue"}
    assert len(value["tags"]) <= 3
    assert value["at"].keys() == {"x", "y"}
    assert value["at"]["x"] % 0.5 == 0
    assert isinstance(value["at"]["y"], int | float | None)
    assert len(value.get("note", "")) <= 8
    return True


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("mode", MODES)
def test_every_answer_of_a_random_model_is_valid(tiny, shared, mode: str, temperature: float) -> None:
    """The model knows nothing, so validity is the grammar's alone."""
    for seed in range(8):
        sampling = Sampling.of(grammar=Grammar.of(json_schema=NESTED), temperature=temperature, seed=seed)
        result = shared.generate(
            tiny.prompt(40, seed), policy=tiny.policy(mode, adaptive_draft=False), sampling=sampling
        )
        assert result.finish_reason == "stop"
        assert valid(result.text)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_verified_gives_dense_answers(tiny, shared, temperature: float) -> None:
    refused = 0
    for seed in range(6):
        sampling = Sampling.of(grammar=Grammar.of(json_schema=NESTED), temperature=temperature, seed=seed)
        policy = tiny.policy("verified", adaptive_draft=False, max_draft=8)
        dense = shared.generate(tiny.prompt(40, seed), policy=tiny.policy("dense"), sampling=sampling)
        verified = shared.generate(tiny.prompt(40, seed), policy=policy, sampling=sampling)
        assert verified.token_ids == dense.token_ids
        refused += verified.drafted - verified.accepted
        assert verified.accepted > 0
    assert refused > 0, "a draft that is never refused proves nothing of going back"


def test_an_answer_that_is_cut_says_so(tiny, shared) -> None:
    sampling = Sampling.of(grammar=Grammar.of(json_schema=NESTED), max_new_tokens=6)
    result = shared.generate(tiny.prompt(40), policy=tiny.policy("dense"), sampling=sampling)
    assert result.finish_reason == "length"
    assert result.text.startswith('{"id"')


def test_a_regular_expression_and_a_lark_grammar(tiny, shared) -> None:
    for grammar in (Grammar.of(regex=r"[a-c]{3}-\d{2}"), Grammar.of(lark=r"start: /[a-c]{3}/ /-\d\d/")):
        result = shared.generate(tiny.prompt(40), sampling=Sampling(grammar=grammar))
        assert re.fullmatch(r"[a-c]{3}-\d{2}", result.text)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_mask_depends_on_the_answer_alone(tiny, grammars, data: st.DataObject) -> None:
    """One constraint is asked about prefixes in any order; a fresh one must say the same of each."""
    text = '{"id": 7, "tags": ["red", "blue"], "at": {"x": 1.5, "y": null}, "note": "å"}'
    other = '{"id": 42, "tags": [], "at": {"x": 0, "y": 2}}'
    answers = [tiny.tokenizer(line)["input_ids"] for line in (text, other)]
    grammar = Grammar.of(json_schema=NESTED)
    asked = grammars.constraint(grammar)
    for _ in range(data.draw(st.integers(2, 6))):
        answer = data.draw(st.sampled_from(answers))
        prefix = answer[: data.draw(st.integers(0, len(answer)))]
        expected = grammars.constraint(grammar).allowed(prefix)
        assert np.array_equal(asked.allowed(prefix), expected)
        assert expected.any()


def test_a_complete_answer_may_only_end(tiny, grammars) -> None:
    constraint = grammars.constraint(Grammar.of(regex="ab"))
    mask = constraint.allowed(tiny.tokenizer("ab")["input_ids"])
    assert np.flatnonzero(mask).tolist() == [STOP]


def test_every_end_token_may_end(tiny) -> None:
    constraint = Grammars(tiny.tokenizer, 300, frozenset({1, 2})).constraint(Grammar.of(regex="a?"))
    assert constraint.allowed([])[[1, 2]].all()
    assert constraint.allowed(tiny.tokenizer("a")["input_ids"]).nonzero()[0].tolist() == [1, 2]
    assert len(constraint.allowed([])) == 300, "a model's table is often longer than its tokenizer"
