from __future__ import annotations

from typing import Any

import pytest

from sfi_agent.grammar import Grammars
from sfi_agent.policy import Grammar


@pytest.fixture(scope="module")
def allows(tiny) -> Any:
    """``allows(schema, text)``: whether the text is a whole answer."""
    grammars = Grammars(tiny.tokenizer, 259, frozenset({1}))

    def check(schema: dict[str, Any], text: str, **limits: Any) -> bool:
        constraint = grammars.constraint(Grammar.of(json_schema=schema, **limits))
        ids = tiny.tokenizer(text)["input_ids"]
        for at, token in enumerate(ids):
            if not constraint.allowed(ids[:at])[token]:
                return False
        return bool(constraint.allowed(ids)[1])

    return check
