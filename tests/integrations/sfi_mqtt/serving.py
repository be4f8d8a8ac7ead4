"""A scripted runtime on the bus, and a client that knows MQTT only."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from sfi_agent import Runtime
from sfi_agent.events import Event, TurnStarted
from sfi_agent.hookspecs import hookimpl
from sfi_mqtt.answers import REPLIES
from sfi_mqtt.headers import Message as Sent
from sfi_mqtt.headers import headed, unheaded
from tests.integrations.langchain_sfi.scripted import Message, scripted_runtime
from tests.integrations.sfi_mqtt.brokers import PATIENCE, Broker

NAME = "desk"


def counted(messages: list[Message]) -> str:
    """``Count to 3.`` is answered with ``1 2 3 .``, ``Note "x".`` with a call of ``note`` whose ``text`` is
    that JSON; anything else with how many messages there were."""
    if found := re.search(r"Note (.*)\.", messages[-1][1]):
        return f'<tool_call>\n{{"name": "note", "arguments": {{"text": {found[1]}}}}}\n</tool_call>'
    found = re.search(r"Count to (\d+)", messages[-1][1])
    return f"{numbers(int(found[1]))} ." if found else f"{len(messages)} messages"


def numbers(last: int) -> str:
    return " ".join(map(str, range(1, last + 1)))


NOTE = {
    "type": "function",
    "function": {"name": "note", "parameters": {"properties": {"text": {}}, "required": ["text"]}},
}
"""The tool that ``counted`` calls."""


class Recorder:
    """A plugin that counts the turns that were begun."""

    def __init__(self) -> None:
        self.turns = 0

    @hookimpl
    def sfi_on_event(self, event: Event) -> None:
        self.turns += isinstance(event, TurnStarted)


def counting_runtime() -> Runtime:
    """Answers as ``counted``; ``runtime.recorder`` counts."""
    runtime = scripted_runtime(counted)
    recorder = Recorder()
    runtime.observers.add(recorder)
    runtime.recorder = recorder  # type: ignore[attr-defined]
    return runtime


def tiny_runtime(store: str | None) -> Runtime:
    """A random model whose greedy answers run to max_new_tokens; the same in every process."""
    from tests.integrations.langchain_sfi.conftest import _model, _tokenizer

    tokenizer = _tokenizer()
    return Runtime.load(_model(len(tokenizer)), tokenizer=tokenizer, device="cpu", store=store)


def turn(text: str, **fields: Any) -> dict[str, Any]:
    sampling = {"max_new_tokens": 20_000}
    asked = {"messages": [{"role": "user", "content": text}], "sampling": sampling}
    return {"version": 1, "kind": "turn", **asked, **fields}


@dataclass
class Plain:
    """A client of the bus that knows MQTT only, at one reply topic.

    Attributes:
        v5: whether properties travel as such; otherwise in a line before the payload.
    """

    client: aiomqtt.Client
    topic: str
    v5: bool = True
    heard: list[tuple[bytes, dict[str, Any]]] = field(default_factory=list)

    async def ask(
        self,
        request: dict[str, Any] | bytes,
        correlation: bytes | None,
        expiry: int | None = None,
        **more: Any,
    ) -> None:
        reply_to = more.get("reply_to", self.topic)
        payload = request if isinstance(request, bytes) else json.dumps(request).encode()
        properties = _properties(reply_to, correlation, expiry) if self.v5 else None
        if not self.v5:
            payload = headed(Sent("", payload, reply_to=reply_to, correlation=correlation, expiry=expiry))
        await self.client.publish(f"sfi/{NAME}/requests", payload, qos=1, properties=properties)

    async def last(self, correlation: bytes) -> dict[str, Any]:
        """Listen until the answer to a request is whole; returns its last message."""
        while True:
            for known, message in self.heard:
                if known == correlation and message["kind"] not in ("started", "progress", "tokens"):
                    return message
            await self.hear()

    async def hear(self) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE):
            came = await anext(aiter(self.client.messages))
        payload, correlation = came.payload, getattr(came.properties, "CorrelationData", None)
        if self.v5:
            assert came.properties.ContentType == "application/json"
        else:
            read = unheaded(Sent("", payload))
            payload, correlation = read.payload, read.correlation
        message = json.loads(payload)
        REPLIES.validate_python(message)  # every one is as the schema says
        self.heard.append((correlation, message))
        return message

    def of(self, correlation: bytes) -> list[dict[str, Any]]:
        return [message for known, message in self.heard if known == correlation]


def _properties(reply_to: str, correlation: bytes | None, expiry: int | None) -> Properties:
    made = Properties(PacketTypes.PUBLISH)
    made.ContentType, made.ResponseTopic = "application/json", reply_to
    if correlation is not None:
        made.CorrelationData = correlation
    if expiry is not None:
        made.MessageExpiryInterval = expiry
    return made


@asynccontextmanager
async def plain_client(broker: Broker, name: str = "plain") -> AsyncIterator[Plain]:
    """One that is connected and has subscribed to its reply topic."""
    topic = f"sfi/{NAME}/replies/{name}"
    protocol = aiomqtt.ProtocolVersion.V5 if broker.v5 else aiomqtt.ProtocolVersion.V311
    async with aiomqtt.Client("127.0.0.1", broker.port, protocol=protocol) as client:
        await client.subscribe(topic, qos=1)
        yield Plain(client, topic, broker.v5)
