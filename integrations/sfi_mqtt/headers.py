"""A message, and how its properties travel where the broker knows none (MQTT 3.1.1).

Such a payload begins with a line of its own, ``{"response_topic": ..., "correlation_data": (hex), "expiry":
(seconds)}``; the JSON of the message follows. A payload without such a line has none.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

MAX_TOPIC = 1000
"""Characters of a reply topic below ``sfi/<runtime>/replies/``."""
MAX_LEVELS = 100
"""Levels of it: Mosquitto takes 200 of a whole topic."""
MAX_EXPIRY = 2**32 - 1
"""Seconds, 136 years of them: MQTT 5 has four bytes."""


@dataclass(frozen=True)
class Message:
    """What is published, or came.

    Attributes:
        topic: where.
        payload: JSON.
        retain: to publish: the broker should show it to whoever subscribes later; come: it was shown so.
        reply_to: topic for the answer.
        correlation: what the answer repeats.
        expiry: seconds after which nobody wants it any more; come: those that are left.
        qos: to publish with.
    """

    topic: str
    payload: bytes
    retain: bool = False
    reply_to: str | None = None
    correlation: bytes | None = None
    expiry: int | None = None
    qos: int = 1


def publishable(levels: str) -> bool:
    """Whether a broker takes messages for a topic that ends so: if not, each breaks the connection again."""
    short = len(levels) <= MAX_TOPIC and levels.count("/") < MAX_LEVELS
    return short and levels.isprintable() and not set(levels) & set("+#")


def within(seconds: float) -> int:
    """Whole seconds as an expiry may be."""
    return min(max(0, int(seconds)), MAX_EXPIRY)


def headed(message: Message) -> bytes:
    """The payload, with a line of headers if the message needs one."""
    headers: dict[str, Any] = {}
    if message.reply_to is not None:
        headers["response_topic"] = message.reply_to
    if message.correlation is not None:
        headers["correlation_data"] = message.correlation.hex()
    if message.expiry is not None:
        headers["expiry"] = message.expiry
    return json.dumps(headers).encode() + b"\n" + message.payload if headers else message.payload


def unheaded(message: Message) -> Message:
    """The message with its headers read, if its payload begins with a line of them."""
    line, _, rest = message.payload.partition(b"\n")
    try:
        headers = json.loads(line)
        if not isinstance(headers, dict) or "correlation_data" not in headers:
            return message
        return replace(
            message,
            payload=rest,
            reply_to=_text(headers.get("response_topic")),
            correlation=bytes.fromhex(headers["correlation_data"]),
            expiry=None if headers.get("expiry") is None else within(headers["expiry"]),
        )
    except (ValueError, TypeError, OverflowError, RecursionError):
        return message


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
