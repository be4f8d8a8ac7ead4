"""Whatever is sent, an error answer comes and the runtime goes on."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfi_mqtt import BusService, Limits
from sfi_mqtt.requests import MAX_BYTES, MAX_DEPTH, RequestError, TurnRequest, read_request
from tests.integrations.sfi_mqtt.brokers import Broker
from tests.integrations.sfi_mqtt.serving import NAME, numbers, plain_client, turn

GOOD = turn("Count to 3.")
NUMBERS = itertools.count()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def broken_turns(draw: st.DrawFn) -> bytes:
    """A good request of which one field has any value, or whose JSON is cut or has a byte changed."""
    how = draw(st.sampled_from(("value", "extra", "cut", "byte")))
    if how == "value":
        return json.dumps({**GOOD, draw(st.sampled_from([*GOOD])): draw(JSON)}).encode()
    if how == "extra":
        return json.dumps({**GOOD, draw(st.text(max_size=9)): draw(JSON)}).encode()
    written = json.dumps(GOOD).encode()
    at = draw(st.integers(0, len(written) - 1))
    if how == "cut":
        return written[:at]
    return written[:at] + bytes([draw(st.integers(0, 255))]) + written[at + 1 :]


PAYLOADS = st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()) | broken_turns()
CORPUS: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"\x00\xff\xfe",
    "a number": b"7",
    "a list": b"[]",
    "no kind": b"{}",
    "an unknown kind": b'{"kind": "explode"}',
    "a later version": json.dumps({**GOOD, "version": 2}).encode(),
    "no messages": json.dumps({**GOOD, "messages": []}).encode(),
    "a role that is no text": json.dumps({**GOOD, "messages": [{"role": 1}]}).encode(),
    "half a surrogate": b'{"kind": "turn", "messages": [{"role": "user", "content": "\\ud800"}]}',
    "half a character": json.dumps(GOOD).encode().replace(b"Count", b"\xc3"),
    "NaN": json.dumps({**GOOD, "timeout": float("nan")}).encode(),
    "infinity": json.dumps({**GOOD, "timeout": float("inf")}).encode(),
    "deep": b"[" * 100_000,
    "deep, and closed": b'{"kind":"turn","messages":' + b"[" * 1000 + b"]" * 1000 + b"}",
    "too large": json.dumps(turn("x" * 70_000)).encode(),
    "a string without end": b'{"kind": "' + b"[" * 50_000,
    "quotes without end": b'"' + b'\\"' * 30_000,
}


@settings(max_examples=300, deadline=None)
@given(PAYLOADS)
def test_a_payload_is_a_request_or_one_line_that_says_why_not(payload: bytes) -> None:
    request, problem = None, None
    try:
        request = read_request(payload)
    except RequestError as error:
        problem = error
    if problem is None:
        assert request.kind in ("turn", "encode", "cancel", "list_sessions", "drop_session")
    else:
        assert problem.code == "malformed"
        assert 0 < len(str(problem)) <= 500
        assert "\n" not in str(problem)


def test_the_largest_payload_is_looked_at_once() -> None:
    """With a pattern that tries again behind every quote this would take hours."""
    with pytest.raises(RequestError, match="request: "):
        read_request(b'"' + b'\\"' * (MAX_BYTES // 2 - 1))


@pytest.mark.parametrize("depth", [MAX_DEPTH, MAX_DEPTH + 1])
def test_the_depth_that_is_allowed(depth: int) -> None:
    """Brackets in strings do not count; those of the request itself do."""
    schema: dict[str, Any] = {"title": '[[[{{"' * 200}
    for _ in range(depth - 2):
        schema = {"x": schema}
    payload = json.dumps({**GOOD, "answer_schema": schema}).encode()
    if depth <= MAX_DEPTH:
        assert isinstance(read_request(payload), TurnRequest)
    else:
        with pytest.raises(RequestError, match=f"deeper than {MAX_DEPTH}"):
            read_request(payload)


async def test_each_is_answered_with_an_error_through_the_broker(
    broker: Broker, serve: Callable[..., BusService], caplog: pytest.LogCaptureFixture
) -> None:
    serve(Limits(request_bytes=2**16))
    async with plain_client(broker) as client:
        for name, payload in CORPUS.items():
            await client.ask(payload, name.encode())
            error = await client.last(name.encode())
            expected = "too_large" if len(payload) > 2**16 else "malformed"
            assert (error["kind"], error["code"]) == ("error", expected), name
            assert "\n" not in error["message"]
        await client.ask(GOOD, b"good")
        assert (await client.last(b"good"))["content"] == f"{numbers(3)} ."
    assert not caplog.records


async def test_a_reply_topic_that_no_broker_takes_breaks_no_connection(
    broker: Broker, serve: Callable[..., BusService]
) -> None:
    """Mosquitto, say, ends the connection of who publishes below more than 200 levels."""
    service = serve()
    below = ["/" * 300] if broker.v5 else ["/" * 300, "x" * 70_000, "\ud800", "\x01"]
    async with plain_client(broker) as client:
        for levels in below:
            await client.ask(GOOD, b"1", reply_to=f"sfi/{NAME}/replies/{levels}")
        await client.ask(GOOD, b"good")
        assert (await client.last(b"good"))["content"] == f"{numbers(3)} ."
    assert service.unanswerable == len(below)
    assert service.connected


def test_generated_ones_are_answered_through_the_broker(
    broker: Broker, serve: Callable[..., BusService]
) -> None:
    """What hypothesis finds, each with an answer; then a turn as if nothing had been."""
    service = serve()

    @settings(max_examples=4, deadline=None)
    @given(st.lists(PAYLOADS, min_size=20, max_size=40))
    def send(payloads: list[bytes]) -> None:
        asyncio.run(_all_answered(broker, payloads))

    send()
    asyncio.run(_all_answered(broker, [json.dumps(GOOD).encode()]))
    assert service.connected


async def _all_answered(broker: Broker, payloads: list[bytes]) -> None:
    async with plain_client(broker) as client:
        asked = [(b"%d" % next(NUMBERS), payload) for payload in payloads]
        for correlation, payload in asked:
            await client.ask(payload, correlation)
        for correlation, _ in asked:
            answer = await client.last(correlation)
            assert answer["kind"] in ("error", "answer", "sessions", "dropped", "encoded")
