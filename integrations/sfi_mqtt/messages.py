"""What is published: topics, messages as JSON, and their JSON schema.

::

    sfi/<runtime>/events/<kind>   one message an event; kind is the event's name, turn_finished say
    sfi/<runtime>/status          retained: online, or offline (also as the last will)
    sfi/<runtime>/requests        what is asked (:mod:`sfi_mqtt.requests`)
    sfi/<runtime>/replies/...     what is answered (:mod:`sfi_mqtt.answers`)
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache, reduce
from operator import or_
from typing import Annotated, Any, Literal

from pydantic import Discriminator, TypeAdapter, ValidationError

from sfi_agent import __version__, details, events
from sfi_agent.errors import SettingError
from sfi_agent.events import Event
from sfi_mqtt.outbox import Pending

VERSION: Literal[1] = 1
"""Of the format. Fields may join without a new version: readers skip those they do not know."""


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """What stands beside the event's own fields in every message.

    Attributes:
        version: version of the message format.
        kind: which event, in snake case; also the last part of the topic.
        time: when it happened, ISO 8601, UTC.
        sequence: number of the event among those of this runtime, from 1. A message may arrive twice
            after a reconnection: then with the same number.
        dropped: events dropped so far because the queue was full: the rest of the gaps in ``sequence``.
    """

    version: Literal[1]
    kind: str
    time: datetime
    sequence: int
    dropped: int


@dataclass(frozen=True, kw_only=True)
class StatusMessage:
    """Whether the runtime is there; retained by the broker.

    Attributes:
        version: version of the message format.
        kind: always ``status``.
        status: ``online`` or ``offline``.
        time: when it was published, ISO 8601, UTC; null in a last will, whose time nobody knew.
        dropped: events dropped so far because the queue was full.
        sfi_agent: version of sfi-agent.
        instance: of the process; another one after a restart.
        serves: whether requests are answered (see bus-messages.json).
        model: name of the model, of the latest where several runtimes publish; null before one is loaded,
            as are ``policy`` and ``window``.
        policy: the runtime's own.
        window: tokens that prompt and answer may have together.
        versions: of the libraries that decide about the answers.
    """

    version: Literal[1]
    kind: Literal["status"]
    status: Literal["online", "offline"]
    time: datetime | None
    dropped: int
    sfi_agent: str
    instance: str
    serves: bool = False
    model: str | None = None
    policy: dict[str, Any] | None = None
    window: int | None = None
    versions: dict[str, str] | None = None


def kind_of(event: type[Event]) -> str:
    """``turn_finished`` for ``TurnFinished``."""
    return _snake(event.__name__)


@lru_cache(maxsize=256)
def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def encode(pending: Pending, dropped: int) -> bytes:
    """An event's message as JSON.

    Raises:
        TypeError, ValueError: JSON has no way to write a field (NaN, say, or a list within itself).
    """
    envelope = {  # the fields of Envelope, which a test compares: making one takes longer than all the rest
        "version": VERSION,
        "kind": kind_of(type(pending.event)),
        "time": pending.time,
        "sequence": pending.sequence,
        "dropped": dropped,
    }
    return _json(envelope | vars(pending.event) | envelope)  # envelope first, whatever a field is called


def encode_status(
    status: Literal["online", "offline"], time: datetime | None, dropped: int, about: Mapping[str, Any]
) -> bytes:
    """The status message as JSON; ``about`` holds its fields from ``instance`` on."""
    message = StatusMessage(
        version=VERSION,
        kind="status",
        status=status,
        time=time,
        dropped=dropped,
        sfi_agent=__version__,
        **about,
    )
    return _json(dataclasses.asdict(message))


def read_status(payload: bytes) -> StatusMessage | None:
    """The status in a payload; None where it is that of a version not known here, or none at all."""
    try:
        return _STATUS.validate_json(payload)
    except ValidationError:
        return None


def base_topic(runtime: str) -> str:
    """``sfi/<runtime>``; raises SettingError for a name that cannot be one level of a topic."""
    if not isinstance(runtime, str) or not re.fullmatch(r"[^/+#\x00-\x1f\x7f\ud800-\udfff]{1,100}", runtime):
        raise SettingError(
            f"runtime: must be a name of 1 to 100 characters without / + # or control characters "
            f"(given {runtime!r})"
        )
    return f"sfi/{runtime}"


def event_messages() -> dict[str, type[Any]]:
    """The message of each event of the core, by kind: its envelope and its own fields."""
    homes = [*vars(events).values(), *vars(details).values()]
    kinds = [kind for kind in homes if isinstance(kind, type) and issubclass(kind, Event)]
    return {kind_of(kind): _message(kind) for kind in kinds if kind not in (Event, details.Detail)}


def adapter() -> TypeAdapter[Any]:
    """Validates any message of version 1, and knows its JSON schema."""
    union: Any = reduce(or_, [*event_messages().values(), StatusMessage])
    return TypeAdapter(Annotated[union, Discriminator("kind")])


def schema() -> dict[str, Any]:
    """The JSON schema of every message."""
    made = adapter().json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "sfi_mqtt messages", **made}


def _message(event: type[Event]) -> type[Any]:
    """A dataclass with the fields of both, the envelope's first."""
    name = kind_of(event)
    return dataclasses.make_dataclass(
        f"{event.__name__}Message",
        [("kind", Literal[name])],
        bases=(event, Envelope),
        namespace={"__doc__": event.__doc__},
        frozen=True,
        kw_only=True,
    )


def _json(fields: dict[str, Any]) -> bytes:
    return _ENCODER.encode(fields).encode()


def _plain(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):  # a part of an event
        return vars(value)
    return str(value)


_STATUS = TypeAdapter(StatusMessage)
_ENCODER = json.JSONEncoder(default=_plain, allow_nan=False)
