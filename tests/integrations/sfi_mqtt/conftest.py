"""Brokers for the tests, where mosquitto is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integrations.sfi_mqtt.brokers import MOSQUITTO, Mosquitto


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
