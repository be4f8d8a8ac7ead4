"""Through a real broker: what arrives, in which order, and what the status says."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from sfi_agent import __version__, details
from sfi_agent.events import Event
from sfi_agent.registry import Registry
from sfi_mqtt import MqttEvents
from sfi_mqtt.messages import adapter, kind_of
from sfi_mqtt.outbox import Outbox
from sfi_mqtt.station import Station
from tests.integrations.langchain_sfi.scripted import scripted_runtime
from tests.integrations.sfi_mqtt.brokers import QUICK, Broker, Mosquitto, listening, wait_until
from tests.integrations.sfi_mqtt.examples import every_event, step

STATION = """
import sys
from sfi_mqtt import MqttEvents
events = MqttEvents(sys.argv[1], runtime="doomed")
print("started", flush=True)
sys.stdin.read()
"""


def statuses(messages: list[dict[str, Any]]) -> list[str]:
    return [message["status"] for message in messages if message["kind"] == "status"]


def offline(messages: list[dict[str, Any]]) -> bool:
    return statuses(messages)[-1:] == ["offline"]


async def test_every_event_arrives_in_order_as_its_schema_says(broker: Broker) -> None:
    registry = Registry(discover=False)
    given = every_event()
    async with listening(broker) as listener:
        with MqttEvents(broker.url, runtime="r1", details=True) as events:
            registry.add(events)
            for event in given:
                registry.observers.emit(event)
        await listener.until(offline)
    topics = [topic for topic, _, _ in listener.received]
    status = "sfi/r1/status"
    del topics[topics.index(status, 1)]  # the one that tells of the runtime, which started
    arrived = [message for message in listener.messages if message["kind"] != "status"]
    assert topics == [status, *(f"sfi/r1/events/{message['kind']}" for message in arrived), status]
    assert [(m["version"], m["sequence"], m["dropped"]) for m in arrived] == [
        (1, number, 0) for number in range(1, len(given) + 1)
    ]
    for event, message in zip(given, arrived, strict=True):
        assert message.items() >= json.loads(json.dumps(dataclasses.asdict(event))).items()
        assert set(message) - set(dataclasses.asdict(event)) == {
            "version", "kind", "time", "sequence", "dropped",
        }  # fmt: skip
        assert abs(datetime.fromisoformat(message["time"]) - datetime.now(UTC)) < timedelta(minutes=5)
        assert type(adapter().validate_python(message)).__name__ == f"{type(event).__name__}Message"
    assert {"turn_finished", "session_saved"} <= {message["kind"] for message in arrived}


async def test_details_stay_in_the_process_unless_asked_for(broker: Broker) -> None:
    registry = Registry(discover=False)
    async with listening(broker) as listener:
        with MqttEvents(broker.url, runtime="r1") as events:
            registry.add(events)
            assert not registry.observers.wants_details
            for event in every_event():
                registry.observers.emit(event)
        messages = await listener.until(offline)
    told = {kind_of(kind) for kind in vars(details).values() if isinstance(kind, type)}
    assert "steps_decoded" in told
    assert {message["kind"] for message in messages} & told == set()


async def test_the_status_is_retained_online_then_offline(broker: Broker) -> None:
    events = MqttEvents(broker.url, runtime="r1")
    wait_until(lambda: events.connected)
    async with listening(broker, name="during") as late:
        await late.until(bool)
    events.close()
    async with listening(broker, name="after") as later:
        await later.until(bool)
    (topic, during, retained), (_, after, still_retained) = late.received[0], later.received[0]
    assert (topic, retained, still_retained) == ("sfi/r1/status", True, True)
    assert (during["status"], after["status"]) == ("online", "offline")
    assert during["sfi_agent"] == __version__
    assert after["time"] is not None
    for message in (during, after):
        adapter().validate_python(message)


async def test_the_status_tells_of_a_runtime_that_was_loaded_later(broker: Broker) -> None:
    with MqttEvents(broker.url, runtime="r1") as events:
        wait_until(lambda: events.connected)
        async with listening(broker) as listener:
            await listener.until(bool)
            with scripted_runtime(str, registry=Registry(extra=[events])) as runtime:
                await listener.until(lambda messages: len(statuses(messages)) == 2)
                name, policy, window = runtime.name, runtime.policy.model_dump(mode="json"), runtime.window
    before, told, after = listener.messages
    assert (before["model"], before["policy"], before["window"]) == (None, None, None)
    assert told["kind"] == "runtime_started"
    for message in (told, after):
        assert (message["model"], message["policy"], message["window"]) == (name, policy, window)
    for message in (before, after):
        assert message["instance"] == before["instance"]
        assert message["versions"]["torch"] == version("torch")
        adapter().validate_python(message)


async def test_the_last_will_says_offline_when_the_process_is_killed(broker: Broker) -> None:
    command = [sys.executable, "-c", STATION, broker.url]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        async with listening(broker) as listener:
            await listener.until(lambda messages: statuses(messages) == ["online"])
            process.kill()
            await listener.until(offline)
    finally:
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert listener.messages[-1]["time"] is None
    adapter().validate_python(listener.messages[-1])


def test_a_process_that_forgets_to_close_ends_quietly(broker: Broker) -> None:
    command = [sys.executable, "-c", STATION, broker.url]
    done = subprocess.run(command, input="", capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "started\n", "")


async def test_events_of_a_broken_connection_come_after_it(broker: Broker) -> None:
    """Queue of 8: of 30 events without a broker the first 22 are dropped, and every message says so."""
    async with listening(broker) as listener:
        events = MqttEvents(broker.url, runtime="r1", queue_size=8, backoff=QUICK)
        wait_until(lambda: events.connected)
        for number in range(1, 6):
            events.sfi_on_event(step(number))
        await listener.until(lambda messages: len(messages) == 6)
        broker.kill()
        wait_until(lambda: not events.connected)
    unacknowledged = events.waiting  # delivered, perhaps, but the broker died before it said so
    for number in range(6, 36):
        events.sfi_on_event(step(number))
    assert (events.waiting, events.dropped) == (8, unacknowledged + 22)
    broker.start()
    async with listening(broker) as listener:
        await listener.until(lambda messages: messages[-1:] != [] and messages[-1].get("sequence") == 35)
    await asyncio.to_thread(events.close)
    late = [message for message in listener.messages if "sequence" in message]
    new = [message["position"] for message in late if message["position"] > 5]  # 1 to 5 may come twice
    assert new == list(range(28, 36))
    assert {message["dropped"] for message in listener.messages[-8:]} == {unacknowledged + 22}


def test_what_was_on_its_way_waits_again_once_the_connection_is_told_lost(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected, give_back = list[bool](), Station.give_back

    def giving_back(station: Station, units: list[Any]) -> None:
        connected.append(events.connected)
        give_back(station, units)

    monkeypatch.setattr(Station, "give_back", giving_back)
    with MqttEvents(broker.url, runtime="r1", backoff=QUICK) as events:
        wait_until(lambda: events.connected)
        broker.kill()
        wait_until(lambda: not events.connected)
    assert connected == [True]


async def test_nothing_is_lost_uncounted_when_the_broker_is_restarted_under_load(
    start_broker: Callable[..., Mosquitto],
) -> None:
    broker = start_broker()  # the embedded one stores nothing
    async with listening(broker):  # the broker keeps for this session what comes while it is away
        pass
    events = MqttEvents(broker.url, runtime="r1", queue_size=100, backoff=QUICK)
    for number in range(1, 2001):
        events.sfi_on_event(step(number))
        if number in (500, 1200):
            broker.stop()  # a killed one loses what it acknowledged and had not stored
            broker.start()
        if number % 50 == 0:
            await asyncio.sleep(0.01)
    wait_until(lambda: events.waiting == 0)
    await asyncio.to_thread(events.close)
    async with listening(broker) as listener:
        await listener.until(lambda messages: offline(messages) and messages[-1]["time"] is not None)
    arrived = {message["sequence"] for message in listener.messages if "sequence" in message}
    assert 2000 in arrived
    assert 2000 - len(arrived) <= listener.messages[-1]["dropped"] == events.dropped


async def test_a_wrong_password_is_logged_once_and_never_shown(
    start_broker: Callable[..., Mosquitto], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "passwords").touch()
    broker = start_broker("allow_anonymous false", f"password_file {tmp_path}/passwords")
    url = broker.url.replace("//", "//alice:s3cret@")
    with caplog.at_level(logging.DEBUG):
        events = MqttEvents(url, runtime="r1", backoff=QUICK)
        connects = "Sending CONNECT"
        wait_until(lambda: caplog.text.count(connects) >= 3)
        events.close()
    told = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.levelname for record in told] == ["WARNING"]
    assert told[0].getMessage().startswith(f"{broker.url}: ")
    assert "ot authori" in told[0].getMessage() or "password" in told[0].getMessage().lower()
    assert "s3cret" not in caplog.text
    assert "s3cret" not in repr(events._connection.broker)


async def test_who_can_publish_no_more_says_goodbye(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Else clients would wait for a runtime that they were told is there."""
    async with listening(broker) as listener:
        with MqttEvents(broker.url, runtime="r1", backoff=QUICK) as events:
            await listener.until(bool)
            monkeypatch.setattr(Station, "messages", lambda *_: 1 / 0)
            events.sfi_on_event(step(1))
            await listener.until(offline)
            wait_until(lambda: "publishing stopped" in caplog.text)
    assert not events.connected


@dataclass(frozen=True, kw_only=True)
class Unwritable(Event):
    """An event of somebody else's, with a field that JSON has no number for."""

    share: float


async def test_of_a_burst_only_what_is_too_large_is_dropped(
    start_broker: Callable[..., Mosquitto], caplog: pytest.LogCaptureFixture
) -> None:
    broker, count = start_broker("allow_anonymous true", "max_packet_size 5000"), 8_000
    async with listening(broker) as listener:
        with MqttEvents(broker.url, runtime="r1", backoff=QUICK) as events:
            wait_until(lambda: events.connected)
            for number in range(1, count + 1):
                session = "x" * 6_000 if number == count // 2 else "s"
                events.sfi_on_event(dataclasses.replace(step(number), session=session))
        await listener.until(offline)
    came = [message["position"] for message in listener.messages if message["kind"] != "status"]
    assert sorted(came) == [number for number in range(1, count + 1) if number != count // 2]
    assert events.dropped == 1
    (told,) = [told for told in caplog.messages if "dropped" in told]
    assert told.startswith("an event is dropped: ")


async def test_an_event_that_cannot_be_written_is_counted_and_the_rest_go_on(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    registry = Registry(discover=False)
    async with listening(broker) as listener:
        events = MqttEvents(broker.url, runtime="r1")
        registry.add(events)
        registry.observers.emit(Unwritable(session="s", turn=1, share=float("nan")))
        registry.observers.emit(step(2))
        await listener.until(lambda messages: messages[-1:] != [] and messages[-1].get("sequence") == 2)
        await asyncio.to_thread(events.close)
        registry.observers.emit(step(3))
    assert events.dropped == 2  # that one, and the one after the end
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        "Unwritable cannot be written as JSON and is dropped"
    ]


def test_an_event_that_cannot_be_written_is_counted_once_however_often_it_is_sent() -> None:
    outbox = Outbox(10)
    station = Station("sfi/r1", outbox)
    outbox.put(Unwritable(session="s", turn=1, share=float("nan")))
    outbox.put(step(2))
    for _ in range(3):  # the connection breaks each time
        units = station.take(10)
        assert sum(len(station.messages(unit)) for unit in units) == 1
        station.give_back(units)
    assert (outbox.dropped, len(outbox)) == (1, 1)
