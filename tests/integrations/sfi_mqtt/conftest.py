"""Brokers for the tests, where mosquitto is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sfi_agent import Runtime
from sfi_mqtt import BusService, Limits
from tests.integrations.sfi_mqtt.brokers import MOSQUITTO, QUICK, Mosquitto, wait_until
from tests.integrations.sfi_mqtt.serving import NAME, counting_runtime


@pytest.fixture
def start_broker(tmp_path: Path) -> Iterator[Callable[..., Mosquitto]]:
    """Starts a broker with more lines of configuration."""
    if MOSQUITTO is None:
        pytest.skip("needs the mosquitto broker (Debian, Ubuntu: apt-get install mosquitto)")
    started: list[Mosquitto] = []

    def start(*settings: str) -> Mosquitto:
        started.append(Mosquitto(tmp_path, *settings))
        started[-1].start()
        return started[-1]

    yield start
    for broker in started:
        broker.kill()


@pytest.fixture
def broker(start_broker: Callable[..., Mosquitto]) -> Mosquitto:
    return start_broker()


@pytest.fixture(scope="package")
def runtime() -> Iterator[Runtime]:
    """Answers by script; see ``serving``."""
    with counting_runtime() as runtime:
        yield runtime


@pytest.fixture
def serve(broker: Mosquitto, runtime: Runtime) -> Iterator[Callable[..., BusService]]:
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
