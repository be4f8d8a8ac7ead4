"""Answers on their way: none is dropped, text that waits joins, and old ones are forgotten."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sfi_agent.tools import CallArguments, CallFinished, CallInvalid, CallStarted, Reasoning, Text
from sfi_agent.tools.events import joined
from sfi_mqtt.answers import Dropped, Error, Started
from sfi_mqtt.parts import Part, parts, rest, size
from sfi_mqtt.replies import Pending, Piece, Replies

STARTED = Started(prompt_tokens=3)
DONE = Error(code="busy", message="later")


def begun(replies: Replies, name: bytes = b"1") -> Pending:
    pending = replies.begin(("sfi/r/replies/x", name))
    assert pending is not None
    return pending


def sent(pieces: list[Piece]) -> list[dict[str, Any]]:
    return [json.loads(piece.payload) for piece in pieces]


EVENTS = st.one_of(
    st.builds(Text, st.text("ab ", min_size=1, max_size=4)),
    st.builds(Reasoning, st.text("cd", min_size=1, max_size=4)),
    st.builds(CallStarted, st.integers(0, 1), st.just("f")),
    st.builds(CallArguments, st.integers(0, 1), st.text("{}", min_size=1, max_size=3)),
    st.builds(CallFinished, st.integers(0, 1), st.just("f"), st.just({"x": None})),
    st.builds(CallInvalid, st.integers(0, 1), st.none(), st.just("?"), st.just("why")),
)


@given(st.lists(st.sampled_from(["take", "lose", "again"]) | EVENTS, max_size=30))
def test_whoever_skips_what_it_has_gets_the_whole_answer_whatever_is_lost(steps: list[Any]) -> None:
    replies, written, heard, flying = Replies(), list[Any](), list[Any](), list[Piece]()
    pending = begun(replies)
    replies.start(pending, STARTED)
    for step in [*steps, "take", "take", "take"]:
        if step == "again":
            assert replies.begin(pending.key) is None
        elif step == "lose":  # what is on its way does not arrive
            replies.give_back(flying)
            flying = []
        elif step == "take":
            for message in sent(flying):
                if message["kind"] == "tokens":
                    came = [Part.model_validate(part).event for part in message["parts"]]
                    assert message["at"] <= size(heard)
                    heard += rest(came, size(heard) - message["at"])
            flying = replies.take(10)
        else:
            replies.add(pending, [step])
            written.append(step)
    assert joined(heard) == joined(written)


@given(st.lists(EVENTS, max_size=12), st.integers(0, 40))
def test_a_piece_begins_where_its_size_says_however_it_was_joined(events: list[Any], skipped: int) -> None:
    assert size(joined(events)) == size(events)
    left = rest(events, skipped)
    assert joined(rest(joined(events), skipped)) == joined(left)
    assert size(left) == max(0, size(events) - skipped)
    assert [part.event for part in parts(events)] == joined(events)


def test_text_that_waits_is_one_message() -> None:
    replies = Replies()
    pending = begun(replies)
    replies.start(pending, STARTED)
    for word in ("one ", "two ", "three "):
        replies.add(pending, [Text(word)])
    started, tokens = sent(replies.take(10))
    assert started["kind"] == "started"
    assert (tokens["at"], tokens["parts"]) == (0, [{"kind": "text", "text": "one two three "}])
    replies.add(pending, [Text("four")])
    (more,) = sent(replies.take(10))
    assert (more["at"], more["parts"]) == (len("one two three "), [{"kind": "text", "text": "four"}])


def test_the_last_message_goes_instead_of_text_that_waits() -> None:
    replies = Replies()
    pending = begun(replies)
    replies.start(pending, STARTED)
    replies.add(pending, [Text("one")])
    replies.finish(pending, DONE)
    assert [message["kind"] for message in sent(replies.take(10))] == ["started", "error"]


def test_every_answer_has_its_turn() -> None:
    replies = Replies()
    for number in range(5):
        replies.start(begun(replies, b"%d" % number), STARTED)
    first, second = replies.take(3), replies.take(3)
    assert [piece.of.key[1] for piece in [*first, *second]] == [b"0", b"1", b"2", b"3", b"4"]


def test_old_answers_are_forgotten_but_none_that_has_not_left() -> None:
    replies = Replies(remembered=3)
    for number in range(5):
        replies.finish(begun(replies, b"%d" % number), DONE)
    assert len(replies) == 5  # nothing has left yet
    assert len(replies.take(10)) == 5
    replies.finish(begun(replies, b"new"), Dropped(session="s"))
    assert len(replies) == 3
    assert replies.begin(("sfi/r/replies/x", b"4")) is None, "remembered"
    assert replies.begin(("sfi/r/replies/x", b"0")) is not None, "forgotten, and run again"


def test_answers_are_forgotten_by_their_bytes_too() -> None:
    replies = Replies(remembered_bytes=500)
    for number in range(50):
        replies.finish(begun(replies, b"%d" % number), DONE)
        replies.take(10)
    assert len(replies) < 10
