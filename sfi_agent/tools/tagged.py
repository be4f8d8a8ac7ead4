"""Calls whose parameters are tags, as Qwen3-Coder writes them: reading one, and what JSON its text is."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from sfi_agent.tools.events import CUT, CallArguments, CallFinished, CallInvalid, CallStarted, Event
from sfi_agent.tools.prompt import whole_value

FUNCTION, PARAMETER = "</function>", "</parameter>"
"""Ends of a call and of a parameter."""
CLOSING = f"\n{PARAMETER}\n"
"""What ends a parameter whose value begins on a line of its own; no other tag does."""
NAME = r"[^>\n]+"
"""Of a function or a parameter."""
COMPOUND = ("anyOf", "oneOf", "allOf", "$ref")
FURTHEST = 32
"""References from one to the next that are followed; what is behind them may be anything."""
KINDS: dict[type, str] = {
    str: "string",
    bool: "boolean",
    type(None): "null",
    list: "array",
    dict: "object",
}

Schema = dict[str, Any]


class TaggedCallReader:
    """Reads ``<function=name><parameter=key>value</parameter></function>``.

    A parameter is given out as JSON once it is whole: what its text means depends on the tool's schema.

    Args:
        index: of the call.
        schemas: of the tools' arguments, by name.
        closes: ends the call, wherever it comes.
    """

    is_call = True

    def __init__(self, index: int, schemas: Mapping[str, Any], closes: str) -> None:
        self.index, self.done = index, False
        self._schemas, self._closes = schemas, closes
        self._name: str | None = None
        self._key: str | None = None
        self._held, self._whole, self._sent = "", "", ""
        self._arguments: dict[str, Any] = {}

    def step(self, character: str) -> list[Event]:
        """Events of the next character."""
        self._held += character
        self._whole += character
        if self._key is not None:
            return self._value(character)
        if character != ">":
            return []
        if self._name is None:
            if found := re.fullmatch(rf"<function=({NAME})>", self._held):
                self._name, self._held = found[1], ""
                return [CallStarted(self.index, self._name)]
        elif found := re.fullmatch(rf"\s*<parameter=({NAME})>", self._held):
            self._key, self._held = found[1], ""
            return []
        elif self._held.strip() == FUNCTION:
            return self._finished()
        if self._held.endswith((FUNCTION, self._closes)):
            return self._failed("it is no function with parameters")
        return []

    def end(self) -> list[Event]:
        """Events of an answer that ends here."""
        open_ = self._key is not None and self._closes in self._held
        return self._failed("its parameters are not closed" if open_ else CUT)

    def _value(self, character: str) -> list[Event]:
        held = self._held
        if held[0] == "\n":
            if character == "\n" and held.endswith(CLOSING, 1):
                text = held[1 : -len(CLOSING)]
                return self._parameter(text) if may_end(text, self._options()) else []
        elif character == ">" and held.endswith(self._closes):
            return self._failed("its parameters are not closed")
        elif character == ">" and held.endswith(PARAMETER):
            return self._parameter(held.removesuffix(PARAMETER).removesuffix("\n"))
        return []

    def _options(self) -> list[Schema]:
        whole = self._schemas.get(self._name or "", {})
        return options_of(whole.get("properties", {}).get(self._key, {}), whole)

    def _parameter(self, text: str) -> list[Event]:
        assert self._key is not None
        value = self._arguments[self._key] = meant(text, self._options())
        pair = f"{json.dumps(self._key, ensure_ascii=False)}: {json.dumps(value, ensure_ascii=False)}"
        self._key, self._held = None, ""
        return self._given(", " + pair if self._sent else "{" + pair)

    def _given(self, text: str) -> list[Event]:
        self._sent += text
        return [CallArguments(self.index, text)]

    def _finished(self) -> list[Event]:
        assert self._name is not None
        self.done = True
        last = self._given("}" if self._sent else "{}")
        return [*last, CallFinished(self.index, self._name, self._arguments)]

    def _failed(self, error: str) -> list[Event]:
        self.done = True
        whole = self._whole.removesuffix(self._closes).strip()
        return [CallInvalid(self.index, self._name, whole if self._name is None else self._sent, error)]


def options_of(schema: Any, whole: Mapping[str, Any], seen: tuple[str, ...] = ()) -> list[Schema]:
    """What a value may be, each without ``anyOf``, ``oneOf``, ``allOf`` and ``$ref``.

    Args:
        schema: of the value.
        whole: the schema that a ``$ref`` looks into.
        seen: references on the way here.
    """
    if not isinstance(schema, Mapping):
        return [{}]
    groups = [[part] for part in schema.get("allOf", ())]
    groups += [list(schema[name]) for name in ("anyOf", "oneOf") if name in schema]
    if (name := schema.get("$ref")) is not None:
        referred = {} if len(seen) == FURTHEST else _referred(name, whole)
        groups.append([] if name in seen else [referred])
        seen = (*seen, name)
    options: list[Schema] = [{name: part for name, part in schema.items() if name not in COMPOUND}]
    for group in groups:
        found = [option for part in group for option in options_of(part, whole, seen)]
        options = [both for left in options for right in found if (both := _both(left, right)) is not None]
    return [option for option in options if values_of(option) != []]


def _referred(name: str, whole: Any) -> Any:
    """What a local ``$ref`` names; an empty schema where it names nothing."""
    if not name.startswith("#"):
        return {}
    for key in name.split("/")[1:]:
        whole = whole.get(key.replace("~1", "/").replace("~0", "~"), {}) if isinstance(whole, Mapping) else {}
    return whole


def _both(left: Schema, right: Schema) -> Schema | None:
    """What asks for what both do, as far as text is concerned; None where nothing can."""
    made = {**right, **left}
    for name, stricter in (("minLength", max), ("maxLength", min)):
        if name in left and name in right:
            made[name] = stricter(left[name], right[name])
    first, second = values_of(left), values_of(right)
    if first is not None and second is not None:
        made["enum"] = [value for value in first if value in second]
    if "type" in left and "type" in right and not {"number", "integer"} & types_of(left):
        made["type"] = sorted(types_of(left) & types_of(right))
    return made if made.get("type", True) and made.get("enum", True) else None


def types_of(option: Schema) -> frozenset[str]:
    """The JSON types that an option names, or has values of; empty where it does not say."""
    named = option.get("type", ())
    values = () if named else values_of(option) or ()
    types = {"string" if isinstance(value, str) else "other" for value in values}
    return frozenset(types | ({named} if isinstance(named, str) else set(named)))


def values_of(option: Schema) -> list[Any] | None:
    """The only values that an option allows, if it lists them: those of its types."""
    values = [option["const"]] if "const" in option else option.get("enum")
    if values is None or not (types := option.get("type", ())):
        return None if values is None else list(values)
    return [value for value in values if _kinds(value) & ({types} if isinstance(types, str) else set(types))]


def _kinds(value: Any) -> set[str]:
    """The JSON types that a value is of."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"number", "integer"} if isinstance(value, int) or value.is_integer() else {"number"}
    return {name for kind, name in KINDS.items() if isinstance(value, kind)}


def written(value: Any) -> str:
    """How a parameter of this value is written."""
    return value if isinstance(value, str) else json.dumps(value)


def may_end(text: str, options: Sequence[Schema]) -> bool:
    """Whether a parameter may end here: text goes on past its closing tag while it is too short."""
    free = [option for option in options if values_of(option) is None]
    strings = [option for option in free if "string" in types_of(option)]
    listed = [written(value) for option in options for value in values_of(option) or ()]
    listed += ["null"] * any("null" in types_of(option) for option in free)
    if not strings or text in listed:
        return True
    lengths = [(option.get("minLength", 0), option.get("maxLength", math.inf)) for option in strings]
    return any(least <= len(text) <= max(least, most) for least, most in lengths)


def meant(text: str, options: Sequence[Schema]) -> Any:
    """The value of a parameter: text where it may be any, else the JSON that it is, if it is any."""
    for value in (value for option in options for value in values_of(option) or ()):
        if text == written(value):
            return value
    types = frozenset[str]().union(*map(types_of, options))
    free = any("string" in types_of(option) and values_of(option) is None for option in options)
    if "string" in types and (free or types <= {"string", "null", "other"}):
        return None if "null" in types and text == "null" else text
    try:
        return whole_value(json.loads({"True": "true", "False": "false", "None": "null"}.get(text, text)))
    except (ValueError, RecursionError):
        return text
