"""Calls whose parameters are tags: what their grammar allows is read as it was meant."""

from __future__ import annotations

from typing import Any

import pytest

from sfi_agent.errors import GrammarError
from sfi_agent.tools import FAMILIES, Tool, call_grammar, choice_of


def grammar_of(parameters: dict[str, Any], family: str = "tagged", **settings: Any) -> Any:
    tool = Tool.of({"type": "function", "function": {"name": "note", "parameters": parameters}})
    return call_grammar(choice_of((tool,), "any"), FAMILIES[family], {}, parallel=False, **settings)


@pytest.mark.parametrize("family", ["hermes", "tagged"])
@pytest.mark.parametrize(
    ("keyword", "given"),
    [
        *[("properties", None), ("required", None), ("allOf", None), ("anyOf", 5), ("enum", None)],
        *[
            ("$ref", 5),
            ("type", 5),
            ("type", [[]]),
            ("minLength", "3"),
            ("maxLength", None),
            ("minItems", "x"),
        ],
    ],
)
def test_a_keyword_of_the_wrong_kind_is_told_before_the_turn(family, keyword, given) -> None:
    properties = {"a": {"type": ["string", "array"], keyword: given}}
    schema = {"properties": properties}
    if keyword in ("properties", "required"):
        schema = {"properties": {"a": {}}, keyword: given}
    with pytest.raises(GrammarError, match=rf"{keyword.replace('$', '.')} must be .* \(given '"):
        grammar_of(schema, family)
