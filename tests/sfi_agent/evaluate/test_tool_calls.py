"""Tool calls: prompts that fit, a strict reading of the output, and means of both ways."""

from __future__ import annotations

import json
import re

import pytest

from sfi_agent.errors import PromptError
from sfi_agent.evaluate.tool_calls import OPENING, parse_call, request, tool_calls
from sfi_agent.evaluate.transcripts import heading

CALL = {"name": "track_shipment", "arguments": {"shipment_id": "SH-1"}}


def written(call: object) -> str:
    """A message with a call, from after ``OPENING``."""
    return " " + json.dumps([call], ensure_ascii=False) + "}"


@pytest.mark.parametrize("context", [3000, 4000])
@pytest.mark.parametrize("seed", range(3))
def test_a_request_fills_its_context_and_ends_where_a_call_begins(wide, context, seed):
    asked = request(wide, context, seed)
    assert asked == request(wide, context, seed)
    assert context - 1500 < len(asked.prompt) + asked.new_tokens <= context
    *history, said, opening = wide.tokenizer.decode(asked.prompt).split("\n")
    assert history[0] == heading()
    assert len(history) % 4 == 1
    assert [json.loads(line)["role"] for line in history[1:5]] == ["user", "assistant", "tool", "assistant"]
    assert opening == OPENING
    for value in asked.call["arguments"].values():
        assert str(value) in json.loads(said)["content"]


@pytest.mark.parametrize("seed", range(3))
def test_the_call_asked_for_is_right_and_fits(wide, seed):
    asked = request(wide, 2200, seed)
    output = written({"id": "call_7", **asked.call})
    score = asked.judge(output, 0.2)
    assert (score.valid, score.right, score.kv_read_fraction) == (1, 1, 0.2)
    assert len(wide.encode(output, raw=True)) < asked.new_tokens


def test_another_call_is_valid_and_not_right(wide):
    score = request(wide, 2200).judge(written(CALL))
    assert (score.valid, score.right) == (1, 0)


@pytest.mark.parametrize(
    "output",
    [
        "",
        " []}",
        written(CALL)[:-1],
        written(CALL) + "}",
        written("track_shipment"),
        written({**CALL, "name": "teleport"}),
        written({"name": "track_shipment"}),
        written({**CALL, "name": ["track_shipment"]}),
        written({**CALL, "arguments": {}}),
        written({**CALL, "arguments": ["shipment_id"]}),
        written({**CALL, "arguments": {"shipment_id": "SH-1", "extra": 1}}),
        " 7}",
    ],
)
def test_what_is_no_call(output):
    assert parse_call(OPENING + output) is None
    assert parse_call(OPENING + written(CALL)) == CALL


def test_a_random_model_makes_no_calls_either_way(tiny, beside):
    said = []
    found = tool_calls(beside, tiny.policy(budget=0.1), context=2200, requests=2, on_request=said.append)
    assert said == [0, 1]
    assert found.requests == 2
    assert (found.dense.valid, found.dense.right) == (found.policy.valid, found.policy.right) == (0, 0)
    assert found.dense.kv_read_fraction == 1
    assert 0 < found.policy.kv_read_fraction < 0.6


def test_a_context_that_holds_no_request_says_what_would(wide):
    with pytest.raises(PromptError, match=r"needs a context of \d+ tokens \(given 500\)") as error:
        request(wide, 500)
    least = int(re.search(r"of (\d+)", str(error.value))[1])
    assert len(request(wide, least).prompt) < least
