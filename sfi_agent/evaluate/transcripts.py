"""Generated transcripts of tool calls, as an agent's history holds them: one JSON message a line.

A small freight business, in which identifiers that one call returns are used by later ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

Message = dict[str, Any]

CITIES = (
    "Zürich", "São Paulo", "東京", "Kraków", "Αθήνα", "Malmö", "Córdoba", "Łódź", "İzmir", "Reykjavík",
    "Québec", "Đà Nẵng", "Rotterdam", "Київ", "Busan", "Durban", "Valparaíso", "القاهرة", "Genève",
)  # fmt: skip
CARRIERS = ("rail", "road", "sea", "air", "barge")
STATES = ("booked", "loaded", "in_transit", "customs", "delayed", "delivered")
SERVICES = ("routing", "billing", "customs-api", "label-printer", "geocoder", "manifest-store")
METRICS = ("latency_ms", "error_rate", "queue_depth", "cpu_share", "memory_mb")
LEVELS = ("DEBUG", "INFO", "INFO", "WARNING", "ERROR")
EVENTS = (
    "connection reset by peer", "retrying after timeout", "cache miss", "schema version mismatch",
    "rate limit reached", "checkpoint written", "certificate expires in 9 days", "request completed",
)  # fmt: skip
TOOLS: dict[str, tuple[str, dict[str, str]]] = {
    "find_shipments": (
        "Shipments between two places.",
        {"origin": "string", "destination": "string", "since": "string"},
    ),
    "track_shipment": ("Where a shipment has been.", {"shipment_id": "string"}),
    "query_metrics": (
        "Samples of a service's metric.",
        {"service": "string", "metric": "string", "minutes": "integer"},
    ),
    "read_log": ("The last lines of a service's log.", {"service": "string", "lines": "integer"}),
    "create_ticket": (
        "Open a ticket for the operators.",
        {"title": "string", "priority": "integer", "related": "string"},
    ),
}
"""Name to description and required arguments with their JSON types."""


@dataclass(frozen=True)
class Episode:
    """A user's request and how it was answered.

    Attributes:
        request: the user's message; it names all that the first call needs.
        call: name and arguments of the first call.
        rest: the messages that follow the request, this call's first.
    """

    request: Message
    call: Message
    rest: tuple[Message, ...]


def line(message: Message) -> str:
    """A message as it stands in a transcript."""
    return json.dumps(message, ensure_ascii=False)


def heading() -> str:
    """The system message, which declares the tools."""
    tools = [
        {
            "name": name,
            "description": description,
            "parameters": {
                "type": "object",
                "properties": {key: {"type": kind} for key, kind in arguments.items()},
                "required": list(arguments),
            },
        }
        for name, (description, arguments) in TOOLS.items()
    ]
    return line({"role": "system", "content": "You run a freight desk. Use the tools.", "tools": tools})


def lines(source: Random) -> Iterator[str]:
    """A transcript without end."""
    yield heading()
    for episode in episodes(source):
        yield from map(line, (episode.request, *episode.rest))


def episodes(source: Random) -> Iterator[Episode]:
    """Requests without end; later ones come back to what earlier ones found."""
    desk = Desk(source)
    kinds = (desk.find, desk.track, desk.measure, desk.read, desk.report)
    while True:
        yield source.choice(kinds)()


@dataclass
class Desk:
    """Makes episodes and remembers the shipments they spoke of.

    Args:
        source: of all choices.
    """

    source: Random
    known: list[Message] = field(default_factory=list)

    def find(self) -> Episode:
        """Which shipments go from here to there?"""
        origin, destination = self.source.sample(CITIES, 2)
        since = self._date()
        found = [self._shipment(origin, destination) for _ in range(self.source.randint(1, 3))]
        first = found[0]
        return self._episode(
            f"Which shipments left {origin} for {destination} since {since}?",
            ("find_shipments", {"origin": origin, "destination": destination, "since": since}),
            {"count": len(found), "shipments": found},
            f"{len(found)} found; {first['shipment_id']} ({first['weight_kg']} kg, by {first['carrier']}) "
            f"is {first['status']}.",
        )

    def track(self) -> Episode:
        """Where is this shipment?"""
        shipment = self._some()
        id, stops = shipment["shipment_id"], self.source.sample(CITIES, self.source.randint(2, 4))
        events = [
            {"at": self._time(), "place": place, "status": self.source.choice(STATES)}
            for place in (shipment["origin"], *stops)
        ]
        last = events[-1]
        return self._episode(
            f"Where is shipment {id} now?",
            ("track_shipment", {"shipment_id": id}),
            {**shipment, "events": events},
            f"{id} was last seen in {last['place']} at {last['at']}, status {last['status']}.",
        )

    def measure(self) -> Episode:
        """How has this metric been?"""
        service, metric = self.source.choice(SERVICES), self.source.choice(METRICS)
        minutes, level = self.source.choice((5, 10, 15, 30)), self.source.uniform(1, 400)
        samples = [round(level * self.source.uniform(0.8, 1.3), 2) for _ in range(8)]
        return self._episode(
            f"How was {metric} of {service} over the last {minutes} minutes?",
            ("query_metrics", {"service": service, "metric": metric, "minutes": minutes}),
            {"service": service, "metric": metric, "until": self._time(), "samples": samples},
            f"{metric} of {service} lay between {min(samples)} and {max(samples)}.",
        )

    def read(self) -> Episode:
        """What does the log say?"""
        service, count = self.source.choice(SERVICES), self.source.randint(3, 6)
        logged = [self._logged(service) for _ in range(count)]
        return self._episode(
            f"Show the last {count} log lines of {service}.",
            ("read_log", {"service": service, "lines": count}),
            {"service": service, "lines": logged},
            f"The latest line reads: {logged[-1]}",
        )

    def report(self) -> Episode:
        """Open a ticket."""
        shipment = self._some()
        id, priority = shipment["shipment_id"], self.source.randint(1, 4)
        title = f"{shipment['origin']} to {shipment['destination']}: {self.source.choice(STATES)}"
        ticket = f"OPS-{self.source.randint(1000, 9999)}"
        return self._episode(
            f"Open a ticket of priority {priority} about {id}, titled {title!r}.",
            ("create_ticket", {"title": title, "priority": priority, "related": id}),
            {"ticket_id": ticket, "status": "open", "priority": priority, "related": [id]},
            f"{ticket} is open and refers to {id}.",
        )

    def _episode(self, request: str, call: tuple[str, Message], result: Message, answer: str) -> Episode:
        id = f"call_{self.source.getrandbits(32):08x}"
        made = {"name": call[0], "arguments": call[1]}
        return Episode(
            {"role": "user", "content": request},
            made,
            (
                {"role": "assistant", "tool_calls": [{"id": id, **made}]},
                {"role": "tool", "tool_call_id": id, "content": result},
                {"role": "assistant", "content": answer},
            ),
        )

    def _some(self) -> Message:
        """A shipment spoken of lately, or a new one."""
        if self.known and self.source.random() < 0.8:
            return self.source.choice(self.known[-8:])
        origin, destination = self.source.sample(CITIES, 2)
        return self._shipment(origin, destination)

    def _shipment(self, origin: str, destination: str) -> Message:
        shipment = {
            "shipment_id": f"SH-{self.source.randint(100000, 999999)}",
            "origin": origin,
            "destination": destination,
            "carrier": self.source.choice(CARRIERS),
            "status": self.source.choice(STATES),
            "weight_kg": round(self.source.uniform(5, 9000), 1),
            "departed": self._date(),
        }
        self.known.append(shipment)
        return shipment

    def _logged(self, service: str) -> str:
        level, event = self.source.choice(LEVELS), self.source.choice(EVENTS)
        return f"{self._time()} {level} {service}[{self.source.randint(100, 9999)}]: {event}"

    def _date(self) -> str:
        return f"2031-{self.source.randint(1, 12):02}-{self.source.randint(1, 28):02}"

    def _time(self) -> str:
        return f"{self._date()}T{self.source.randint(0, 23):02}:{self.source.randint(0, 59):02}:00Z"
