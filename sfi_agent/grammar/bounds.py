"""A JSON schema with an end: nothing it allows goes on for ever.

A small model may repeat a letter, a digit or a newline until its window is full, all of it valid so far.
So what a schema leaves open gets a limit: strings, arrays, free objects, digits. JSON is on one line with
a space after each comma and colon, as Python writes it and as models have mostly read it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from sfi_agent.grammar.numbers import FINEST, fill, held
from sfi_agent.grammar.patterns import readable
from sfi_agent.grammar.shapes import refuse_shapeless

JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""llguidance's names for that one line; ``json.dumps`` writes the same."""
LONGEST = 64
"""Characters of a key that is not declared, at most."""
KEY = f"^.{{1,{LONGEST}}}$"
"""Keys of an object that declares none."""
SHAPED = 1024
"""Characters of a string with a pattern or format, at least allowed."""
FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"}
)
"""Enforced; any other ``format`` is an annotation, as JSON Schema has it."""
ASSERTIONS = frozenset(
    {"type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "properties", "items", "prefixItems", "not"}
)
ELSEWHERE = ("anyOf", "oneOf", "$ref")
"""What these name is closed where it stands."""
ONLY_REQUIRED = frozenset({"required", "title", "description"})
DEPTH = 3
"""Levels of arrays and objects in a value of which the schema says nothing."""

Schema = dict[str, Any]


def enforced(schema: Mapping[str, Any], *, max_string: int, max_items: int, lenient: bool) -> str:
    """The JSON text of a schema as llguidance takes it: bounded, in the one style, ``lenient`` or not.

    Args:
        schema, max_string, max_items: as for :func:`bounded`.
        lenient: leave out what the grammar cannot enforce, instead of refusing the schema.
    """
    limited = bounded(schema, max_string=max_string, max_items=max_items, lenient=lenient)
    return json.dumps({**limited, "x-guidance": {**JSON_STYLE, "lenient": lenient}})


def bounded(schema: Mapping[str, Any], *, max_string: int, max_items: int, lenient: bool = False) -> Schema:
    """A copy of ``schema`` in which everything is finite, but for schemas that refer to themselves.

    Args:
        schema: JSON schema.
        max_string: characters of a string without ``maxLength``.
        max_items: elements of an array without ``maxItems``, and keys of an object that it does not
            declare.
        lenient: as for :func:`enforced`.
    """
    return _Bounds(max_string, max_items, lenient).of(schema)


class _Bounds:
    def __init__(self, max_string: int, max_items: int, lenient: bool) -> None:
        self._max_string, self._max_items, self._lenient = max_string, max_items, lenient

    def of(self, schema: Mapping[str, Any], *, closed: bool = True, known: Iterable[str] = ()) -> Schema:
        """``schema``, bounded; ``closed``: it stands by itself; ``known``: what is declared beside it."""
        refuse_shapeless(schema)
        schema = held(schema, lenient=self._lenient)
        if self._lenient and isinstance(pattern := schema.get("pattern"), str) and not readable(pattern):
            del schema["pattern"]
        if not ASSERTIONS & schema.keys() and not _types(schema):
            return {**self._anything(DEPTH), **schema}
        known = [*known, *(name for part in _parts(schema) for name in _declared(part))]
        made = {name: self._keyword(name, value, known) for name, value in schema.items()}
        if not isinstance(made.get("format"), str) or made["format"] not in FORMATS:
            made.pop("format", None)
        if made.get("uniqueItems") is False:  # asks for nothing, which llguidance does not know
            del made["uniqueItems"]
        if "enum" in made or "const" in made:
            return made
        for kind in _types(made):
            getattr(self, f"_{kind}", lambda made: None)(made)
        if closed and any("object" in _types(part) for part in _parts(made)):
            self._close(made)
        return made

    def _keyword(self, name: str, value: Any, known: list[str]) -> Any:
        if name in ("properties", "$defs", "definitions", "patternProperties") and isinstance(value, Mapping):
            return {key: self._sub(sub) for key, sub in value.items()}
        if name in ("anyOf", "oneOf") and isinstance(value, list):
            return [self._required(sub, known) or self._sub(sub) for sub in value]
        if name == "prefixItems" and isinstance(value, list):
            return [self._sub(sub) for sub in value]
        if name == "allOf" and isinstance(value, list):  # each part may see the others' properties
            return [self._part(sub, known) for sub in value]
        return self._sub(value) if name in ("items", "additionalProperties") else value

    def _sub(self, schema: Any) -> Any:
        if schema is True:
            return self._anything(DEPTH)
        return self.of(schema) if isinstance(schema, Mapping) else schema

    @staticmethod
    def _required(schema: Any, known: list[str]) -> Schema | None:
        """An alternative that only asks for some of the properties declared beside it, and has no others."""
        if not known or not isinstance(schema, Mapping) or not schema.keys() <= ONLY_REQUIRED:
            return None
        asked = schema.get("required")
        if not isinstance(asked, list) or not all(name in known for name in asked):
            return None
        properties: Schema = {name: {} for name in known}
        return {**schema, "type": "object", "properties": properties, "additionalProperties": False}

    def _part(self, schema: Any, known: list[str]) -> Any:
        if not isinstance(schema, Mapping):
            return schema
        refuse_shapeless(schema)
        asserted = ASSERTIONS & schema.keys() or _types(schema)
        if not asserted:
            return held(schema, lenient=self._lenient)
        return self.of(schema, closed=False, known=known)

    def _string(self, made: Schema) -> None:
        shaped = SHAPED if "pattern" in made or "format" in made else 0  # it may need a certain length
        made.setdefault("maxLength", max(self._max_string, shaped, made.get("minLength", 0)))

    def _integer(self, made: Schema) -> None:
        fill(made)

    def _number(self, made: Schema) -> None:
        fill(made)
        made.setdefault("multipleOf", FINEST)

    def _array(self, made: Schema) -> None:
        made.setdefault("maxItems", max(self._max_items, made.get("minItems", 0)))
        if "items" not in made:
            made["items"] = self._anything(DEPTH - 1)

    def _close(self, made: Schema) -> None:
        """Only declared keys; where others may be, few of them and none that is long."""
        parts = _parts(made)
        known = [part.get("properties", {}) for part in parts]
        if any(name in part for part in parts for name in ELSEWHERE):
            return
        if any("patternProperties" in part for part in parts[1:]):
            return
        if not all(isinstance(names, Mapping) for names in known):  # refused later
            return
        if declared := [name for names in known[1:] for name in names]:
            others = dict.fromkeys(declared, made.get("additionalProperties", {}))
            made["properties"] = {**known[0], **others, **known[0]}  # in this order
            made["additionalProperties"] = False
        if "properties" in made or "patternProperties" in made:
            made.setdefault("additionalProperties", False)
        others = made.get("additionalProperties", self._anything(DEPTH - 1))
        if others is not False or "patternProperties" in made:
            self._open(made, others)

    def _open(self, made: Schema, others: Schema) -> None:
        """Keys that are not declared. llguidance counts keys only where it must have all of ``properties``:
        those that may be left out are patterns here."""
        known, required = made.get("properties", {}), made.get("required")
        needed = [name for name in known if name in required] if isinstance(required, list) else []
        if "patternProperties" not in made:
            optional = {f"^{re.escape(name)}$": sub for name, sub in known.items() if name not in needed}
            made["properties"] = {name: sub for name, sub in known.items() if name in needed}
            made["patternProperties"] = {**optional, _other_than(known): others}
            made["additionalProperties"] = False
        elif len(needed) < len(known):
            return
        most = len(known) + self._max_items
        made.setdefault("maxProperties", max(most, made.get("minProperties", 0)))

    def _anything(self, depth: int) -> Schema:
        """Any JSON value of at most ``depth`` levels."""
        options: list[Schema] = [
            {"type": "null"},
            {"type": "boolean"},
            {"type": "number"},
            {"type": "string"},
        ]
        for option in options[2:]:
            getattr(self, f"_{option['type']}")(option)
        if depth > 0:
            inner, most = self._anything(depth - 1), self._max_items
            options.append({"type": "array", "items": inner, "maxItems": most})
            options.append(
                {
                    "type": "object",
                    "patternProperties": {KEY: inner},
                    "additionalProperties": False,
                    "maxProperties": most,
                }
            )
        return {"anyOf": options}


def _types(schema: Mapping[str, Any]) -> list[str]:
    """The declared types, or the one that a typical keyword implies."""
    declared = schema.get("type", [])
    if declared:
        return [declared] if isinstance(declared, str) else list(declared)
    implied = {"properties": "object", "items": "array", "prefixItems": "array", "pattern": "string"}
    return [kind for keyword, kind in implied.items() if keyword in schema]


def _declared(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    properties = schema.get("properties")
    return properties if isinstance(properties, Mapping) else {}


def _parts(schema: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The schema, and all that its ``allOf`` asks for besides."""
    inner = schema.get("allOf")
    parts = [part for part in inner if isinstance(part, Mapping)] if isinstance(inner, list) else []
    return [schema, *(found for part in parts for found in _parts(part))]


def _other_than(names: Iterable[str]) -> str:
    """The pattern of all keys that are not too long, but for these: they leave each at some character."""
    known, options = set(names), []
    for start in sorted({""} | {name[:at] for name in known for at in range(min(len(name) + 1, LONGEST))}):
        on = sorted({name[len(start)] for name in known if name.startswith(start) and name != start})
        rest = rf"[^\n{re.escape(''.join(on))}].{{0,{LONGEST - len(start) - 1}}}"
        options.append(re.escape(start) + (rest if start in known | {""} else f"({rest})?"))
    return f"^({'|'.join(options)})$"
