"""Brokers for the tests: mosquitto, and where it cannot be had the embedded one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sfi_agent import Runtime
from sfi_mqtt import BusService, Limits
from tests.integrations.sfi_mqtt.brokers import MOSQUITTO, QUICK, Broker, Embedded, Mosquitto, wait_until
from tests.integrations.sfi_mqtt.serving import NAME, counting_runtime


@pytest.fixture(scope="session")
def mosquitto(request: pytest.FixtureRequest) -> bool:
    """Whether there is one."""
    return MOSQUITTO is not None and not request.config.getoption("--no-mosquitto")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say on which broker the tests ran."""
    if MOSQUITTO is None or config.getoption("--no-mosquitto"):
        terminalreporter.write_line(
            "MQTT: no mosquitto (Debian, Ubuntu: apt-get install mosquitto); these tests ran on the embedded "
            "broker, those of TLS, passwords and stored messages were skipped"
        )


@pytest.fixture
def start_broker(tmp_path: Path, mosquitto: bool) -> Iterator[Callable[..., Mosquitto]]:
    """Starts mosquitto with more lines of configuration."""
    if not mosquitto:
        pytest.skip("needs the mosquitto broker: the embedded one has no such settings")
    started: list[Mosquitto] = []

    def start(*settings: str) -> Mosquitto:
        started.append(Mosquitto(tmp_path, *settings))
        started[-1].start()
        return started[-1]

    yield start
    for broker in started:
        broker.kill()


@pytest.fixture
def broker(tmp_path: Path, mosquitto: bool) -> Iterator[Broker]:
    """One that lets everybody in; see ``Broker`` for what differs."""
    broker = Mosquitto(tmp_path) if mosquitto else Embedded()
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture(scope="package")
def runtime() -> Iterator[Runtime]:
    """Answers by script; see ``serving``."""
    with counting_runtime() as runtime:
        yield runtime


@pytest.fixture
def serve(broker: Broker, runtime: Runtime) -> Iterator[Callable[..., BusService]]:
    """Starts a service for the scripted runtime and waits until it is connected."""
    started: list[BusService] = []

    def start(limits: Limits | None = None, **settings: object) -> BusService:
        settings = {"name": NAME, "grace": 0.2, "backoff": QUICK, **settings}
        started.append(BusService(broker.url, runtime, limits=limits, **settings))
        wait_until(lambda: started[-1].connected)
        return started[-1]

    yield start
    for service in started:
        service.close()
