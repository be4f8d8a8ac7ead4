"""Tool calls: how a model is told of tools, how its calls are constrained, and how they are read.

Everything here is text and JSON; nothing knows LangChain or HTTP, so every integration can share it.
"""

from sfi_agent.tools.dialect import Ask, Dialect
from sfi_agent.tools.events import (
    CallArguments,
    CallFinished,
    CallInvalid,
    CallStarted,
    Event,
    Reasoning,
    Text,
)
from sfi_agent.tools.family import FAMILIES, Family, family_of, knows_tools
from sfi_agent.tools.grammar import call_grammar
from sfi_agent.tools.parse import Parser, ResponseParser, parse_response, parser_of
from sfi_agent.tools.prompt import whole_characters, whole_value, with_schema, with_tools
from sfi_agent.tools.tool import Tool, ToolChoice, choice_of

__all__ = [
    "FAMILIES",
    "Ask",
    "CallArguments",
    "CallFinished",
    "CallInvalid",
    "CallStarted",
    "Dialect",
    "Event",
    "Family",
    "Parser",
    "Reasoning",
    "ResponseParser",
    "Text",
    "Tool",
    "ToolChoice",
    "call_grammar",
    "choice_of",
    "family_of",
    "knows_tools",
    "parse_response",
    "parser_of",
    "whole_characters",
    "whole_value",
    "with_schema",
    "with_tools",
]
