"""What the keywords of a schema that are read here must be; llguidance checks the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sfi_agent.errors import GrammarError

SHAPES: dict[str, tuple[tuple[type, ...], str]] = {
    "properties": ((Mapping,), "an object"),
    "$ref": ((str,), "a string"),
    "type": ((str, list), "a string or a list of strings"),
    **dict.fromkeys(("required", "allOf", "anyOf", "oneOf", "enum"), ((list,), "a list")),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems"), ((int, float), "a number")),
    **dict.fromkeys(("minProperties", "maxProperties"), ((int, float), "a number")),
}


def refuse_shapeless(schema: Mapping[str, Any]) -> None:
    """Raise what is wrong with a schema's own keywords, not with those of schemas in it."""
    for name in (name for name in SHAPES if name in schema):
        given, (kinds, words) = schema[name], SHAPES[name]
        fits = isinstance(given, kinds)
        if fits and name == "type":
            fits = all(isinstance(kind, str) for kind in given)
        if not fits:
            said = f"{name} must be {words} (given {str(given)[:80]!r})"
            raise GrammarError(f"the grammar cannot be used: {said}")
