"""Calls whose parameters are tags, as Qwen3-Coder writes them: reading one, and what JSON its text is."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from sfi_agent.tools.events import CUT, CallArguments, CallFinished, CallInvalid, CallStarted, Event
from sfi_agent.tools.prompt import whole_value

FUNCTION, PARAMETER = "</function>", "</parameter>"
"""Ends of a call and of a parameter."""


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
        if character != ">":
            return []
        if self._key is not None:
            return self._value()
        if self._name is None:
            if found := re.fullmatch(r"<function=([^>\n]+)>", self._held):
                self._name, self._held = found[1], ""
                return [CallStarted(self.index, self._name)]
        elif found := re.fullmatch(r"\s*<parameter=([^>\n]+)>", self._held):
            self._key, self._held = found[1], ""
            return []
        elif self._held.strip() == FUNCTION:
            return self._finished()
        if self._held.endswith((FUNCTION, self._closes)):
            return self._failed("it is no function with parameters")
        return []

    def end(self) -> list[Event]:
        """Events of an answer that ends here."""
        return self._failed(CUT)

    def _value(self) -> list[Event]:
        if self._held.endswith(self._closes):
            return self._failed("its parameters are not closed")
        if not self._held.endswith(PARAMETER):
            return []
        assert self._key is not None
        text = self._held.removesuffix(PARAMETER).removeprefix("\n").removesuffix("\n")
        known = self._schemas.get(self._name or "", {}).get("properties", {})
        value = self._arguments[self._key] = meant(text, known.get(self._key, {}))
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


def types_of(schema: Any) -> frozenset[str]:
    """The JSON types that a schema names, its alternatives' included; empty where it does not say."""
    if not isinstance(schema, Mapping):
        return frozenset()
    named = schema.get("type", ())
    types = {named} if isinstance(named, str) else set(named)
    if not types and (values := schema.get("enum", [schema["const"]] if "const" in schema else [])):
        types = {"string" if isinstance(value, str) else "other" for value in values}
    for part in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        types |= types_of(part)
    return frozenset(types)


def meant(text: str, schema: Any) -> Any:
    """The value of a parameter: text where the schema has strings, else the JSON that it is, if it is any."""
    for value in schema.get("enum", ()) if isinstance(schema, Mapping) else ():
        if text == (value if isinstance(value, str) else json.dumps(value)):
            return value
    types = types_of(schema)
    if "string" in types and not ("null" in types and text == "null"):
        return text
    try:
        return whole_value(json.loads({"True": "true", "False": "false", "None": "null"}.get(text, text)))
    except (ValueError, RecursionError):
        return text
