"""A real broker on a free loopback port, and a subscriber that misses nothing."""

from __future__ import annotations

import asyncio
import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiomqtt

from sfi_mqtt.backoff import Backoff

EMBEDDED = """
import sys, threading
from sfi_mqtt.embedded import EmbeddedBroker
with EmbeddedBroker(int(sys.argv[1])):
    threading.Event().wait()
"""

MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
PATIENCE = 30.0
"""Seconds until something that must happen counts as not happening; a passing test waits for none."""
QUICK = Backoff(first=0.05, most=0.2)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


class Broker(ABC):
    """A broker process that can be killed and started again where it was.

    Attributes:
        v5: whether it speaks MQTT 5.
    """

    v5: bool

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def _command(self) -> list[str]:
        """What runs it."""

    def start(self) -> None:
        self._process = subprocess.Popen(self._command(), stderr=subprocess.DEVNULL)
        wait_until(self._answers)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """As its administrator would: Mosquitto stores what it has."""
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self._process:
            self._process.send_signal(how)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        assert self._process
        assert self._process.poll() is None, "the broker did not start"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class Embedded(Broker):
    """The embedded broker as a process: no MQTT 5, no passwords, no TLS, and it stores nothing."""

    v5 = False

    def _command(self) -> list[str]:
        return [sys.executable, "-c", EMBEDDED, str(self.port)]


class Mosquitto(Broker):
    """The broker that most people have."""

    v5 = True

    def __init__(self, folder: Path, *settings: str) -> None:
        super().__init__()
        self._config = folder / "mosquitto.conf"
        lines = [
            f"listener {self.port} 127.0.0.1",
            f"user {getpass.getuser()}",
            "log_dest none",
            "persistence true",
            f"persistence_location {folder}/",
            "autosave_on_changes true",  # a subscriber's session outlives a kill
            "autosave_interval 1",
            "max_queued_messages 0",
            *(settings or ["allow_anonymous true"]),
        ]
        self._config.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def _command(self) -> list[str]:
        assert MOSQUITTO
        return [MOSQUITTO, "-c", str(self._config)]


class Listener:
    """What one subscriber has received: (topic, content, retained), in order."""

    def __init__(self, client: aiomqtt.Client) -> None:
        self._client = client
        self.received: list[tuple[str, dict[str, Any], bool]] = []

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [message for _, message, _ in self.received]

    async def until(self, done: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
        """Receive until ``done`` says so of all messages; returns them."""
        async with asyncio.timeout(PATIENCE):
            while not done(self.messages):
                message = await anext(aiter(self._client.messages))
                self.received.append((str(message.topic), json.loads(message.payload), message.retain))
        return self.messages


@asynccontextmanager
async def listening(broker: Broker, name: str = "listener") -> AsyncIterator[Listener]:
    """A subscriber whose session the broker keeps under ``name``."""
    client = aiomqtt.Client("127.0.0.1", broker.port, identifier=name, clean_session=False)
    async with client:
        await client.subscribe("sfi/#", qos=1)
        yield Listener(client)
