"""JSON answers of which half is none: LangChain's own parsers complete what looks cut."""

from __future__ import annotations

import json
from typing import Any

from langchain_core.exceptions import OutputParserException
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.outputs import Generation


class WholeJsonParser(JsonOutputParser):
    """Partial values while streaming; at the end of an answer, a whole value or an exception."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        if not partial:
            check_whole(result[0].text)
        return super().parse_result(result, partial=partial)


class WholePydanticParser(PydanticOutputParser[Any]):
    """The same for pydantic classes."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        if not partial:
            check_whole(result[0].text)
        return super().parse_result(result, partial=partial)


def check_whole(text: str) -> None:
    """Raise OutputParserException, which says what to do, unless the text is one JSON value."""
    try:
        json.loads(text, strict=False)
    except ValueError as error:
        raise OutputParserException(
            f"the answer is no whole JSON value ({error}); if max_tokens or a stop string cut it, allow more",
            llm_output=text,
        ) from error
