"""A JSON schema with an end: nothing it allows goes on for ever.

A small model may repeat a letter, a digit or a newline until its window is full, all of it valid so far.
So what a schema leaves open gets a limit: strings, arrays, free objects, digits. JSON is on one line with
a space after each comma and colon, as Python writes it and as models have mostly read it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""llguidance's names for that one line; ``json.dumps`` writes the same."""
LARGEST = 10**15
"""Magnitude of a number whose schema sets no limit, at most."""
FINEST = 1e-9
"""Its decimals, where the schema names no step; exponents are not written."""
KEY = "^.{1,64}$"
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
ALTERNATIVES = ("anyOf", "oneOf", "allOf", "$ref")
DEPTH = 3
"""Levels of arrays and objects in a value of which the schema says nothing."""

Schema = dict[str, Any]


def enforced(schema: Mapping[str, Any], *, max_string: int, max_items: int, lenient: bool) -> str:
    """The JSON text of a schema as llguidance takes it: bounded, in the one style, ``lenient`` or not.

    Args:
        schema, max_string, max_items: as for :func:`bounded`.
        lenient: leave out what the grammar cannot enforce, instead of refusing the schema.
    """
    limited = bounded(schema, max_string=max_string, max_items=max_items)
    return json.dumps({**limited, "x-guidance": {**JSON_STYLE, "lenient": lenient}})


def bounded(schema: Mapping[str, Any], *, max_string: int, max_items: int) -> Schema:
    """A copy of ``schema`` in which everything is finite, but for schemas that refer to themselves.

    Args:
        schema: JSON schema.
        max_string: characters of a string without ``maxLength``.
        max_items: elements of an array without ``maxItems``, and keys of an object without properties.
    """
    return _Bounds(max_string, max_items).of(schema)


class _Bounds:
    def __init__(self, max_string: int, max_items: int) -> None:
        self._max_string, self._max_items = max_string, max_items

    def of(self, schema: Mapping[str, Any], *, closed: bool = True) -> Schema:
        if not ASSERTIONS & schema.keys() and not _types(schema):
            return {**self._anything(DEPTH), **schema}
        made = {name: self._keyword(name, value) for name, value in schema.items()}
        if made.get("format") not in FORMATS:
            made.pop("format", None)
        if made.get("uniqueItems") is False:  # asks for nothing, which llguidance does not know
            del made["uniqueItems"]
        if "enum" in made or "const" in made:
            return made
        for kind in _types(made):
            getattr(self, f"_{kind}", lambda made: None)(made)
        if "object" in _types(made) and closed:
            self._close(made)
        return made

    def _keyword(self, name: str, value: Any) -> Any:
        if name in ("properties", "$defs", "definitions", "patternProperties") and isinstance(value, Mapping):
            return {key: self._sub(sub) for key, sub in value.items()}
        if name in ("anyOf", "oneOf", "prefixItems") and isinstance(value, list):
            return [self._sub(sub) for sub in value]
        if name == "allOf" and isinstance(value, list):  # each part may see the others' properties
            return [self._part(sub) for sub in value]
        return self._sub(value) if name in ("items", "additionalProperties") else value

    def _sub(self, schema: Any) -> Any:
        if schema is True:
            return self._anything(DEPTH)
        return self.of(schema) if isinstance(schema, Mapping) else schema

    def _part(self, schema: Any) -> Any:
        asserted = isinstance(schema, Mapping) and (ASSERTIONS & schema.keys() or _types(schema))
        return self.of(schema, closed=False) if asserted else schema

    def _string(self, made: Schema) -> None:
        shaped = SHAPED if "pattern" in made or "format" in made else 0  # it may need a certain length
        made.setdefault("maxLength", max(self._max_string, shaped, made.get("minLength", 0)))

    def _integer(self, made: Schema) -> None:
        low, high = (_limit(made, "minimum"), _limit(made, "maximum"))
        if low is None:
            made["minimum"] = -max(LARGEST, 2 * abs(high or 0))
        if high is None:
            made["maximum"] = max(LARGEST, 2 * abs(low or 0))

    def _number(self, made: Schema) -> None:
        self._integer(made)
        made.setdefault("multipleOf", FINEST)

    def _array(self, made: Schema) -> None:
        made.setdefault("maxItems", max(self._max_items, made.get("minItems", 0)))
        if "items" not in made and "prefixItems" not in made:
            made["items"] = self._anything(DEPTH - 1)

    def _close(self, made: Schema) -> None:
        if "properties" in made or any(name in made for name in ALTERNATIVES):
            if not any(name in made for name in ALTERNATIVES):
                made.setdefault("additionalProperties", False)
            return
        values = made.get("additionalProperties", self._anything(DEPTH - 1))
        made.setdefault("maxProperties", max(self._max_items, made.get("minProperties", 0)))
        if values is not False and "patternProperties" not in made:
            made.update(patternProperties={KEY: values}, additionalProperties=False)

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


def _limit(made: Schema, name: str) -> float | None:
    value = made.get(name, made.get(f"exclusive{name.capitalize()}"))
    return value if isinstance(value, int | float) else None
