"""Broker URLs, passwords, names, and the delays between attempts."""

from __future__ import annotations

import threading

import pytest

from sfi_agent.errors import ServiceError, SettingError
from sfi_mqtt import BusRuntime, BusService, Limits, MqttEvents
from sfi_mqtt.backoff import Backoff
from sfi_mqtt.broker import Broker, Tls


@pytest.fixture(autouse=True)
def no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SFI_MQTT_PASSWORD", raising=False)


@pytest.mark.parametrize(
    ("url", "broker", "address"),
    [
        ("mqtt://host", Broker("host", 1883), "mqtt://host:1883"),
        ("mqtts://host/", Broker("host", 8883, tls=Tls()), "mqtts://host:8883"),
        ("mqtt://me@host:99", Broker("host", 99, user="me"), "mqtt://host:99"),
        ("mqtt://me:p%40ss@[::1]", Broker("::1", 1883, user="me", password="p@ss"), "mqtt://[::1]:1883"),
    ],
)
def test_a_url_names_a_broker(url: str, broker: Broker, address: str) -> None:
    assert Broker.of(url) == broker
    assert broker.address == address


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://host", "unknown scheme 'http'"),
        ("host:1883", "unknown scheme ''"),
        ("me:s3cret@host", "unknown scheme ''"),
        ("me:s3cret@x://host", "unknown scheme ''"),
        ("mqtt://", "no host"),
        ("mqtt://me:s3cret@:1883", "no host"),
        ("mqtt://host:0", "port of 0"),
        ("mqtt://me:s3cret@host:port", "host or port"),
        ("mqtt://me:s3cret/s3cret@host", "host or port"),
        ("mqtt://me:s3cret@host:99999", "host or port"),
        ("mqtt://me:s3cret@[host", "host or port"),
        ("mqtt://host/topic", "nothing may follow"),
        ("mqtt://host?x=1", "nothing may follow"),
        ("mqtt://:s3cret@host", "needs a user"),
    ],
)
def test_a_bad_url_is_refused_in_one_line_without_its_password(url: str, problem: str) -> None:
    with pytest.raises(SettingError, match=problem) as raised:
        MqttEvents(url, runtime="r1")
    told = str(raised.value)
    assert told.startswith("MQTT broker: ")
    assert "mqtt://[user[:password]@]host[:port]" in told
    assert "\n" not in told
    assert "s3cret" not in told


def test_the_password_is_the_argument_or_in_the_url_or_in_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SFI_MQTT_PASSWORD", "of the environment")
    assert Broker.of("mqtt://me:url@host", password="argument").password == "argument"
    assert Broker.of("mqtt://me:url@host").password == "url"
    assert Broker.of("mqtt://me@host").password == "of the environment"
    assert Broker.of("mqtt://host").password is None  # nobody to log in as
    assert "of the environment" not in repr(Broker.of("mqtt://me@host"))


@pytest.mark.parametrize("runtime", ["", "a/b", "a+", "#", "a\nb", "a\0", "x" * 101, None])
def test_a_runtime_name_is_one_level_of_a_topic(runtime: str) -> None:
    with pytest.raises(SettingError, match="runtime: must be a name"):
        MqttEvents("mqtt://host", runtime=runtime)


@pytest.mark.parametrize("size", [0, -1, 1.5, True])
def test_a_queue_has_room_for_an_event(size: int) -> None:
    with pytest.raises(SettingError, match="queue_size: must be a whole number"):
        MqttEvents("mqtt://host", runtime="r1", queue_size=size)


@pytest.mark.parametrize("name", ["together", "request_bytes"])
def test_a_runtime_takes_something_on(name: str) -> None:
    with pytest.raises(SettingError, match=f"limits: {name} must be 1 or more .given 0"):
        Limits(**{name: 0})


def test_delays_double_up_to_a_limit_and_differ() -> None:
    backoff = Backoff(first=1, most=30)
    for failures, ceiling in [(0, 1), (1, 2), (4, 16), (5, 30), (10_000, 30)]:
        delays = {backoff.delay(failures) for _ in range(50)}
        assert len(delays) > 1
        assert ceiling / 2 <= min(delays) <= max(delays) <= ceiling


@pytest.mark.parametrize(("first", "most"), [(0, 1), (-1, 1), (2, 1)])
def test_delays_that_make_no_sense_are_refused(first: float, most: float) -> None:
    with pytest.raises(SettingError, match="0 < first <= most"):
        Backoff(first, most)


@pytest.mark.parametrize("seconds", [-1, float("nan"), None, "60", True])
def test_patience_and_grace_are_seconds(seconds: float) -> None:
    with pytest.raises(SettingError, match="patience: must be 0 or more seconds"):
        BusRuntime("mqtt://127.0.0.1:1", "r1", patience=seconds)
    with pytest.raises(SettingError, match="grace: must be 0 or more seconds"):
        BusService("mqtt://127.0.0.1:1", None, name="r1", grace=seconds)


@pytest.mark.parametrize("seconds", [float("inf"), 1e300])
def test_who_waits_for_ever_is_told_that_a_client_was_closed(seconds: float) -> None:
    told: list[str] = []

    def ask(client: BusRuntime) -> None:
        with pytest.raises(ServiceError) as raised:
            _ = client.status
        told.append(str(raised.value))

    with BusRuntime("mqtt://127.0.0.1:1", "r1", patience=seconds) as client:
        thread = threading.Thread(target=ask, args=(client,), daemon=True)
        thread.start()
    thread.join(30)
    assert len(told) == 1
    assert "this client was closed" in told[0]
