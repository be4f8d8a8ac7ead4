"""``sfi-agent bus`` and ``sfi-agent tail``, as processes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import amqtt.broker
import pytest

from sfi_agent import Limits
from sfi_agent.cli import options
from sfi_agent.errors import ServiceError
from sfi_agent.policy import Sampling
from sfi_mqtt import Broker, BusRuntime, MqttEvents, commands, service
from sfi_mqtt.embedded import EmbeddedBroker
from sfi_mqtt.headers import Message
from sfi_mqtt.tail import Tail, line
from tests.integrations.sfi_mqtt.brokers import PATIENCE, QUICK, free_port, wait_until
from tests.integrations.sfi_mqtt.examples import every_event, step
from tests.integrations.sfi_mqtt.serving import counting_runtime
from tests.integrations.sfi_mqtt.test_restarts import chat, whole

SECRET = "s3cret"
UNREACHABLE = "mqtt://127.0.0.1:1"


@contextmanager
def command(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "sfi_agent", *arguments],
        env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def refused(*arguments: str, **environment: str) -> str:
    with command(*arguments, **environment) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize("name", ["bus", "tail"])
def test_a_password_on_the_command_line_is_refused(name: str) -> None:
    told = refused(name, "--broker", f"mqtt://alice:{SECRET}@127.0.0.1")
    assert "SFI_MQTT_PASSWORD or --password-file" in told
    assert SECRET not in told


@pytest.mark.parametrize(
    "arguments",
    [
        ("tail", "--name", "a/b"),
        ("tail", "--name", "#"),
        ("tail", "--count", "0"),
        ("bus", "--name", "a/b"),
        ("bus", "--together", "0"),
        ("bus", "--grace", "-1"),
        ("bus", "--grace", "inf"),
        ("bus", "--port", "70000"),
        ("bus", "--bytes", "0"),
        ("bus", "--sessions", "0"),
        ("bus", "--idle-seconds", "0"),
    ],
)
def test_what_is_not_allowed_is_refused_before_anything_is_done(arguments: tuple[str, ...]) -> None:
    """Before a broker is reached, and a model that takes minutes to load."""
    with command(*arguments, "--broker", UNREACHABLE) as process:
        out, err = process.communicate(timeout=60)
    assert out == ""
    assert err.count("\n") == 1
    assert re.match(rf"error: (Invalid value for '{arguments[1]}': |(runtime|limits): )", err), err


@pytest.mark.parametrize(
    ("name", "broker", "library", "extra"),
    [
        ("bus", UNREACHABLE, "aiomqtt", "mqtt"),
        ("tail", UNREACHABLE, "aiomqtt", "mqtt"),
        ("bus", "embedded", "amqtt", "broker"),
    ],
)
def test_a_library_that_is_not_there_is_told_with_its_extra(
    name: str, broker: str, library: str, extra: str, tmp_path: Path
) -> None:
    (tmp_path / f"{library}.py").write_text(f"raise ModuleNotFoundError({library!r})")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    told = refused(name, "--broker", broker, PYTHONPATH=path)
    assert told.endswith(f" needs {library}: pip install 'sfi-agent[{extra}]'\n")


def test_a_signal_is_minded_before_anybody_hears_that_the_command_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever reads where the page is, or that a runtime is online, may end the command at once."""
    usual, minded = signal.getsignal(signal.SIGTERM), list[bool]()

    def heard(*_: object, **__: object) -> None:
        minded.append(signal.getsignal(signal.SIGTERM) is not usual)
        raise ServiceError("enough")

    monkeypatch.setattr(commands, "_say", heard)
    monkeypatch.setattr(commands, "_reach", lambda _: None)
    monkeypatch.setattr(service, "BusService", heard)
    monkeypatch.setattr(options, "runtime_of", lambda *_: nullcontext(SimpleNamespace()))
    for ends in (lambda: commands.tail(UNREACHABLE, web=True), lambda: commands.bus(UNREACHABLE)):
        with pytest.raises(ServiceError, match="enough"):
            ends()
    assert minded == [True, True]
    assert signal.getsignal(signal.SIGTERM) is usual


def test_bus_that_was_stopped_before_it_connected_does_not_say_that_it_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said, stopped = list[str](), threading.Event()
    stopped.set()
    monkeypatch.setattr(commands, "_say", said.append)
    monkeypatch.setattr(commands, "_reach", lambda _: None)
    monkeypatch.setattr(commands, "_stopped", lambda: nullcontext(stopped))
    monkeypatch.setattr(options, "runtime_of", lambda *_: counting_runtime())
    commands.bus(UNREACHABLE)
    assert said == ["closing: running turns may end"]


def test_bus_bounds_what_sessions_take(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = list[object]()

    def load(*given: object) -> None:
        loaded.extend(given)
        raise ServiceError("enough")

    monkeypatch.setattr(commands, "_reach", lambda _: None)
    monkeypatch.setattr(options, "runtime_of", load)
    with pytest.raises(ServiceError, match="enough"):
        commands.bus(UNREACHABLE, bytes=10**9, sessions=5, idle_seconds=60.0)
    assert loaded[-1] == Limits(bytes=10**9, sessions=5, idle_seconds=60.0)


def test_tail_says_that_no_broker_is_there() -> None:
    """In one line, for it does not try again."""
    url = f"mqtt://127.0.0.1:{free_port()}"
    told = refused("tail", "--broker", url)
    assert told.startswith(f"error: {url}: ")
    assert told.rstrip().endswith("refused; start a broker there, or name another one")


def test_bus_says_that_no_broker_is_there_before_it_loads_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "runtime_of", lambda *_: pytest.fail("a model was loaded"))
    url = f"mqtt://127.0.0.1:{free_port()}"
    with pytest.raises(ServiceError, match=f"{url}: .*refused; start a broker there, or name another one"):
        commands.bus(url)


def test_tail_shows_events_as_they_come() -> None:
    url = f"mqtt://127.0.0.1:{(port := free_port())}"
    with EmbeddedBroker(port), MqttEvents(url, runtime="r1", backoff=QUICK) as events:
        wait_until(lambda: events.connected)
        with command("tail", "--broker", url, "--name", "r1", "--json") as process:
            assert process.stdout
            assert json.loads(process.stdout.readline())["status"] == "online"
            events.sfi_on_event(step(7))
            assert json.loads(process.stdout.readline())["position"] == 7
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0


def test_whoever_hears_that_a_runtime_is_there_misses_nothing_it_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """This broker hands out a status, and sees to nothing else that its reader asked until step 7 is out."""
    said, handed_out = threading.Event(), amqtt.broker.Broker._publish_retained_messages_for_subscription

    async def slowly(broker: amqtt.broker.Broker, subscription: tuple[str, int], session: object) -> None:
        await handed_out(broker, subscription, session)
        while subscription[0].endswith("/status") and not said.is_set():
            await asyncio.sleep(0.01)

    monkeypatch.setattr(amqtt.broker.Broker, "_publish_retained_messages_for_subscription", slowly)
    url = f"mqtt://127.0.0.1:{(port := free_port())}"
    with EmbeddedBroker(port), MqttEvents(url, runtime="r1", backoff=QUICK) as events:
        wait_until(lambda: events.connected)
        with Tail(Broker.of(url), "r1", QUICK) as tail:
            shown = tail.until(threading.Event())
            assert " online" in next(shown).line
            events.sfi_on_event(step(7))
            events.close()
            said.set()
            assert json.loads(next(shown).json)["position"] == 7


def test_an_event_is_one_line_whatever_it_holds() -> None:
    from datetime import UTC, datetime

    from sfi_mqtt.messages import encode
    from sfi_mqtt.outbox import Pending

    for event in every_event():
        payload = encode(Pending(event, 1, datetime(2026, 5, 4, 9, 30, tzinfo=UTC)), 0)
        shown = line(Message("sfi/r1/events/x", payload))
        assert shown.startswith("09:30:00")
        assert " r1 text/7 " in shown
        assert shown.isprintable()
    for payload in (b"\xff\x1b[2J", b"{}", b"[]", b'{"time": 1, "kind": "x\\u001b[2J"}', b"[" * 10**5):
        assert line(Message("sfi/r1/events/x", payload)).isprintable()


def test_an_embedded_broker_closes_in_silence_while_somebody_connects() -> None:
    """One that has said nothing yet: the task that waits for it would be destroyed."""
    program = """
import socket, sys, time
from sfi_mqtt.embedded import EmbeddedBroker
with EmbeddedBroker(int(sys.argv[1])):
    one = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    time.sleep(0.3)
"""
    arguments = [sys.executable, "-c", program, str(free_port())]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_bus_serves_a_model_until_it_is_told_to_stop(smollm2: Path, tmp_path: Path) -> None:
    """The embedded model on the embedded broker; the secret of no broker at all is shown nowhere."""
    port = free_port()
    arguments = (
        "bus",
        "--broker",
        "embedded",
        "--port",
        str(port),
        "--name",
        "desk",
        "--model",
        str(smollm2),
    )
    with command(*arguments, SFI_MQTT_PASSWORD=SECRET) as process:
        assert process.stderr
        first = process.stderr.readline()
        assert first.endswith(f" answers on sfi/desk/requests at mqtt://127.0.0.1:{port}\n"), first
        asked = chat("What is the capital of France?")
        with BusRuntime(f"mqtt://127.0.0.1:{port}", "desk", patience=PATIENCE, backoff=QUICK) as client:
            assert client.name == str(smollm2)
            assert "Paris" in whole(
                client, asked.__class__(asked.messages, sampling=Sampling(max_new_tokens=12))
            )
            shown = Path(f"/proc/{process.pid}/cmdline")
            assert not shown.exists() or SECRET.encode() not in shown.read_bytes()
            process.send_signal(signal.SIGTERM)
            wait_until(lambda: client.trouble != "")
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err) == (0, "", "closing: running turns may end\n")
