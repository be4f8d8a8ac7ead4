"""A broker in this process, for a first try: amqtt, in a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any, Self

from sfi_agent.errors import SettingError

try:
    from amqtt.broker import Broker  # type: ignore[import-untyped]
except ModuleNotFoundError as error:
    raise SettingError("--broker embedded needs amqtt: pip install 'sfi-agent[broker]'") from error

GRACE = 1.0
"""Seconds in which what the broker leaves behind may end."""


class EmbeddedBroker:
    """An MQTT 3.1.1 broker on the loopback interface that lets everybody in and keeps nothing.

    A context manager.

    Args:
        port: to listen on.

    Raises:
        SettingError: the port cannot be used.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="sfi-broker", daemon=True)
        for name in ("amqtt", "transitions"):  # they tell of every packet
            logging.getLogger(name).setLevel(logging.CRITICAL)

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._broker = self._run(self._started())
        except Exception as error:
            self._stop()
            raise SettingError(
                f"the embedded broker cannot listen on port {self._port}: {error.__cause__ or error}; "
                f"is a broker there already? Use it: --broker mqtt://127.0.0.1:{self._port}, or give another "
                "--port"
            ) from None
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._broker.shutdown())
        self._stop()

    async def _started(self) -> Any:
        config = {
            "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{self._port}"}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
        broker = Broker(config)
        await broker.start()
        return broker

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _let_go(self) -> None:
        """Of a connection that came while the broker closed a task may wait still."""
        self._loop.set_exception_handler(lambda *_: None)  # Python 3.11's streams tell of cancelled tasks
        if tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            _, left = await asyncio.wait(tasks, timeout=GRACE)
            for task in left:
                task.cancel()
            await asyncio.sleep(0)

    def _stop(self) -> None:
        self._run(self._let_go())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
