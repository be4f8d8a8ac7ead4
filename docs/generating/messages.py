"""The JSON schemas of what goes over MQTT."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import Discriminator, TypeAdapter

from generating.docstrings import attributes, summary
from sfi_agent import details
from sfi_mqtt import answers, messages, requests


def event_messages() -> str:
    """The JSON schema of the events and the status over MQTT, each field with its meaning."""
    parts = (details.Token, details.Step, details.Memory)
    kinds = (*messages.event_messages().values(), messages.StatusMessage, *parts)
    return _described(messages.schema(), kinds)


def bus_messages() -> str:
    """The JSON schema of requests and answers over MQTT, each field with its meaning."""
    union = Annotated[requests.Request | answers.Reply, Discriminator("kind")]
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "requests to a runtime over MQTT, and its answers",
        **TypeAdapter(union).json_schema(),
    }
    homes = (requests, answers)
    kinds = {kind for home in homes for kind in vars(home).values() if isinstance(kind, type)}
    return _described(schema, [kind for kind in kinds if kind.__name__ in schema["$defs"]])


def _described(schema: dict[str, Any], kinds: Iterable[type]) -> str:
    """The schema as JSON, with what the docstrings say of ``kinds`` and of their fields."""
    for described in schema["$defs"].values():
        described["description"] = described.get("description", "").partition("\n\n")[0]
    for kind in kinds:
        described = schema["$defs"][kind.__name__]
        described["description"] = summary(kind)
        meaning = {name: told for base in reversed(kind.__mro__) for name, told in attributes(base)}
        for name, field in described["properties"].items():
            told = meaning.get(name) or next(
                meaning[other] for other in meaning if f"`{name}`" in meaning[other]
            )
            field["description"] = told
    return json.dumps(schema, indent=2) + "\n"
