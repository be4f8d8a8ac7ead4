"""An answer's text, made when it is asked for: the same chunks whenever that is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfi_agent.runtime.answer import AnswerText
from sfi_agent.runtime.text import TextStream


def answer(tiny, stops=()):
    return AnswerText(TextStream(tiny.tokenizer), stops)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(ids=st.lists(st.integers(0, 258), min_size=1, max_size=12), often=st.integers(1, 12))
def test_when_chunks_are_taken_does_not_matter(tiny, ids, often):
    text, taken = answer(tiny), []
    for count, id in enumerate(ids):
        assert not text.push(id)
        assert text.waiting
        if count % often == 0:
            taken += text.take()
            assert not text.waiting
    text.end()
    taken += text.take()
    assert [id for chunk in taken for id in chunk.token_ids] == ids
    assert "".join(chunk.text for chunk in taken) == text.whole()
    assert text.whole() == tiny.tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("take", [True, False])
def test_a_stop_string_is_seen_though_nobody_takes_chunks(tiny, take):
    text, ids = answer(tiny, ["stop"]), tiny.tokenizer("do stop it")["input_ids"]
    hits = []
    for id in ids:
        hits.append(text.push(id))
        if take:
            text.take()
        if hits[-1]:
            break
    assert hits == [False] * (len("do stop") - 1) + [True]
    text.end()
    assert text.whole() == "do "


def test_stop_strings_do_not_put_the_whole_answer_together_at_each_token(tiny, monkeypatch):
    whole, made = AnswerText.whole, []
    monkeypatch.setattr(AnswerText, "whole", lambda self: made.append(1) or whole(self))
    text, ids = answer(tiny, ["stop"]), tiny.tokenizer("go on, and on")["input_ids"]
    assert not any(text.push(id) for id in ids)
    assert not made
    text.end()
    assert text.whole() == "go on, and on"


def test_the_last_half_character_comes_once(tiny):
    text, ids = answer(tiny), tiny.tokenizer("é")["input_ids"][:1]
    text.push(ids[0])
    assert [chunk.text for chunk in text.take()] == [""]
    text.end()
    assert [(chunk.text, chunk.token_ids) for chunk in text.take()] == [("\ufffd", ())]
    assert text.take() == []
