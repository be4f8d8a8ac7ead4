"""Patterns of strings, of which llguidance knows those without look-around and backreferences."""

from __future__ import annotations

import json
from functools import lru_cache


@lru_cache(maxsize=1024)
def readable(pattern: str) -> bool:
    """Whether llguidance takes a pattern; without it no grammar is compiled, and nothing need be known."""
    try:
        from llguidance import LLMatcher
    except ImportError:
        return True
    schema = json.dumps({"type": "string", "pattern": pattern})
    return not LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(schema))
