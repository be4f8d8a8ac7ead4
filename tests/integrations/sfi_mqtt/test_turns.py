"""Turns by request and response, from a client that knows MQTT only."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import pytest

from sfi_agent import Runtime
from sfi_agent.errors import PluginError
from sfi_agent.tools import Dialect
from sfi_mqtt import BusService, Limits
from tests.integrations.sfi_mqtt.brokers import Broker
from tests.integrations.sfi_mqtt.serving import NAME, NOTE, numbers, plain_client, turn

Serve = Callable[..., BusService]
LONG = "Count to 3000."
"""Takes many seconds; the tests end it."""


async def test_tokens_come_in_order_and_then_the_answer(broker: Broker, serve: Serve) -> None:
    serve()
    async with plain_client(broker) as client:
        await client.ask(turn("Count to 40."), b"1")
        answer = await client.last(b"1")
    started, *tokens, last = [m for m in client.of(b"1") if m["kind"] != "progress"]
    prompt = answer["result"]["prompt_tokens"]
    assert started == {"version": 1, "kind": "started", "prompt_tokens": prompt}
    text = ""
    for message in tokens:
        assert (message["kind"], message["at"]) == ("tokens", len(text))
        (part,) = message["parts"]
        assert part["kind"] == "text"
        text += part["text"]
    assert len(tokens) > 10
    assert last == answer
    assert answer["content"] == answer["result"]["text"] == f"{numbers(40)} ."
    assert answer["content"].startswith(text)
    assert answer["parts"] == [{"kind": "text", "text": answer["content"]}]
    assert answer["result"]["finish_reason"] == "stop"


async def test_a_request_that_comes_again_runs_once_and_is_answered_again(
    broker: Broker, serve: Serve, runtime: Runtime
) -> None:
    serve()
    before = runtime.recorder.turns
    async with plain_client(broker) as client:
        for _ in range(3):
            await client.ask(turn("Count to 20."), b"twice")
        await client.last(b"twice")
        await client.ask(turn("Count to 20."), b"twice")  # now that it is over
        while [m["kind"] for m in client.of(b"twice")].count("answer") < 2:
            await client.hear()
    answers = [m for m in client.of(b"twice") if m["kind"] == "answer"]
    assert all(answer == answers[0] for answer in answers)
    assert runtime.recorder.turns == before + 1


async def test_every_client_hears_its_own_answers_alone(broker: Broker, serve: Serve) -> None:
    """Ten clients with the same correlation data, three requests each, at the same time."""
    serve()

    async def converse(number: int) -> None:
        async with plain_client(broker, f"c{number}") as client:
            for part in range(3):
                await client.ask(turn(f"Count to {3 * number + part}."), b"%d" % part)
            for part in range(3):
                answer = await client.last(b"%d" % part)
                assert answer["content"] == f"{numbers(3 * number + part)} ."

    await asyncio.gather(*(converse(number) for number in range(1, 11)))


async def test_a_turn_can_be_cancelled(broker: Broker, serve: Serve) -> None:
    serve()
    async with plain_client(broker) as client:
        await client.ask(turn(LONG), b"long")
        while (await client.hear())["kind"] != "tokens":
            pass
        await client.ask({"kind": "cancel"}, b"long")
        answer = await client.last(b"long")
        assert answer["kind"] == "answer"
        assert answer["result"]["finish_reason"] == "cancelled"
        assert numbers(3000).startswith(answer["content"])
        await client.ask({"kind": "cancel"}, b"never asked")
        assert (await client.last(b"never asked"))["code"] == "unknown_turn"


async def test_expired_requests_and_more_than_there_is_room_for_are_refused(
    broker: Broker, serve: Serve, runtime: Runtime
) -> None:
    serve(Limits(together=1, waiting=2))
    before = runtime.recorder.turns
    async with plain_client(broker) as client:
        await client.ask(turn(LONG), b"running")
        while (await client.hear())["kind"] != "tokens":
            pass
        await client.ask(turn("Count to 3."), b"expires", expiry=1)
        await client.ask(turn("Count to 4."), b"cancelled")
        await client.ask(turn("Count to 5."), b"too many")
        assert (await client.last(b"too many"))["code"] == "busy"
        for answers in (1, 2):  # at once, and again, for the first may have been lost
            await client.ask({"kind": "cancel"}, b"cancelled")
            while [m.get("code") for m in client.of(b"cancelled")] != ["cancelled"] * answers:
                await client.hear()
        assert "answer" not in [m["kind"] for m in client.of(b"running")]
        await asyncio.sleep(1.2)
        await client.ask({"kind": "cancel"}, b"running")
        assert (await client.last(b"expires"))["code"] == "expired"
    assert runtime.recorder.turns == before + 1


async def test_a_timeout_counts_the_waiting(broker: Broker, serve: Serve) -> None:
    serve(Limits(together=1))
    async with plain_client(broker) as client:
        await client.ask(turn(LONG, timeout=0.5), b"a")
        await client.ask(turn(LONG, timeout=0.4), b"b")
        for correlation in (b"a", b"b"):
            error = await client.last(correlation)
            assert (error["kind"], error["code"]) == ("error", "timeout")


async def test_sessions_go_on_are_listed_and_dropped(broker: Broker, serve: Serve, runtime: Runtime) -> None:
    serve()
    async with plain_client(broker) as client:
        await client.ask(turn("Hello", session="notes"), b"1")
        await client.last(b"1")
        await client.ask(turn("Hello", session="notes"), b"2")
        again = (await client.last(b"2"))["result"]
        assert again["reused_tokens"] == again["prompt_tokens"] - 1
        await client.ask({"kind": "list_sessions"}, b"3")
        (line,) = [s for s in (await client.last(b"3"))["sessions"] if s["id"] == "notes"]
        assert (line["turns"], line["in_memory"], line["stored"]) == (2, True, False)
        await client.ask({"kind": "drop_session", "session": "notes"}, b"4")
        assert (await client.last(b"4"))["session"] == "notes"
        await client.ask({"kind": "list_sessions"}, b"5")
        assert "notes" not in [s["id"] for s in (await client.last(b"5"))["sessions"]]
    assert "notes" not in runtime.sessions


async def test_whatever_a_call_holds_there_is_an_answer_and_its_place_is_free_again(
    broker: Broker, serve: Serve, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no grammar holds it. Half a character is replaced; what is nested too deep is an error."""
    monkeypatch.setattr(Dialect, "sampling", lambda _self, sampling, _ask, _prompt: sampling)
    service = serve(Limits(together=1, waiting=1))
    deep = "[" * 300 + "]" * 300
    async with plain_client(broker) as client:
        await client.ask(turn(r'Note "caf\udce9".', tools=[NOTE]), b"half")
        answer = await client.last(b"half")
        for correlation in (b"1", b"2"):
            await client.ask(turn(f"Note {deep}.", tools=[NOTE]), correlation)
            error = await client.last(correlation)
            assert (error["kind"], error["code"]) == ("error", "internal")
        await client.ask(turn("Count to 3."), b"next")
        assert (await client.last(b"next"))["content"] == f"{numbers(3)} ."
    assert answer["parts"][-1]["arguments"] == {"text": "caf\ufffd"}
    assert service.connected
    assert "an answer cannot be sent" in caplog.messages


async def test_tokens_can_be_counted(broker: Broker, serve: Serve, runtime: Runtime) -> None:
    serve()
    async with plain_client(broker) as client:
        await client.ask({"kind": "encode", "text": "abc"}, b"1")
        assert (await client.last(b"1"))["token_ids"] == runtime.encode("abc", raw=True)
        await client.ask({"kind": "encode", "messages": [{"role": "user", "content": "abc"}]}, b"2")
        assert (await client.last(b"2"))["token_ids"] == runtime.encode("abc")


@pytest.mark.parametrize(
    ("fields", "code", "told"),
    [
        ({"policies": ["nope"]}, "setting", "unknown policy 'nope'; known: balanced"),
        ({"policies": [{"budget": -1}]}, "setting", "budget: must be a number of positions"),
        ({"tools": [{}]}, "setting", "tools: each must be"),
        ({"tool_choice": "any"}, "setting", "tool_choice: 'any' needs at least one tool"),
        ({"answer_schema": {"type": "nothing"}}, "setting", ""),
        ({"sampling": {"max_new_tokens": 10**6}}, "prompt", "window"),
        ({"sampling": {"temperature": -1}}, "malformed", "sampling.temperature: "),
        ({"session": ""}, "malformed", "session: "),
        ({"colour": "red"}, "malformed", "colour: "),
    ],
)
async def test_what_is_not_allowed_is_answered_in_one_line(
    broker: Broker, serve: Serve, fields: dict, code: str, told: str
) -> None:
    serve()
    async with plain_client(broker) as client:
        await client.ask(turn("Count to 3.", **fields), b"1")
        error = await client.last(b"1")
    assert (error["kind"], error["code"]) == ("error", code)
    assert told in error["message"]
    assert "\n" not in error["message"]


async def test_requests_that_cannot_be_answered_are_counted_and_told_once(
    broker: Broker, serve: Serve, runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    service = serve()
    before = runtime.recorder.turns
    async with plain_client(broker) as client:
        await client.ask(turn("Count to 3."), None)
        await client.ask(turn("Count to 3."), b"x" * 200)
        for topic in ("elsewhere", f"sfi/{NAME}/requests", f"sfi/{NAME}/status", "sfi/other/replies/x"):
            await client.ask(turn("Count to 3."), b"1", reply_to=topic)
        await client.ask(turn("Count to 3."), b"good")
        await client.last(b"good")
    assert service.unanswerable == 6
    assert runtime.recorder.turns == before + 1
    (told,) = [r.getMessage() for r in caplog.records if "cannot be answered" in r.getMessage()]
    assert f"sfi/{NAME}/replies/" in told


async def test_closing_lets_a_short_turn_end_and_refuses_the_rest(broker: Broker, serve: Serve) -> None:
    service = serve(Limits(together=2), grace=3.0)
    async with plain_client(broker) as client:
        await client.ask(turn(LONG), b"long")
        while (await client.hear())["kind"] != "tokens":
            pass
        await client.ask(turn("Count to 30."), b"short")
        while "tokens" not in [message["kind"] for message in client.of(b"short")]:
            await client.hear()
        closing = asyncio.create_task(asyncio.to_thread(service.close))
        assert (await client.last(b"short"))["content"] == f"{numbers(30)} ."
        await client.ask(turn("Count to 9."), b"late")
        assert (await client.last(b"late"))["code"] == "closing"
        assert (await client.last(b"long"))["code"] == "closing"
        await closing
    assert not service.connected


async def test_a_second_service_of_a_name_is_refused_and_the_first_goes_on(
    broker: Broker, serve: Serve, runtime: Runtime
) -> None:
    serve()
    with pytest.raises(PluginError, match=f"'sfi_mqtt:{NAME}': another plugin has this name"):
        serve()
    assert sum(thread.name.startswith(f"sfi-{NAME}-") for thread in threading.enumerate()) == 1
    async with plain_client(broker) as client:
        await client.ask(turn("Count to 3."), b"1")
        assert (await client.last(b"1"))["content"] == f"{numbers(3)} ."


async def test_two_runtimes_share_a_broker(broker: Broker, serve: Serve) -> None:
    serve()
    serve(name="other")
    async with plain_client(broker) as client:
        began = time.monotonic()
        await client.ask(turn("Count to 5."), b"1")
        await client.last(b"1")
        await asyncio.sleep(min(1.0, time.monotonic() - began))  # time for a second answer
        assert len([m for m in client.of(b"1") if m["kind"] == "answer"]) == 1
