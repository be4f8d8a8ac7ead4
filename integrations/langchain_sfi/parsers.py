"""Answers of which half is none: LangChain's own parsers complete what looks cut."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, TypeAlias

from langchain_core.exceptions import OutputParserException
from langchain_core.messages import BaseMessage
from langchain_core.output_parsers import (
    BaseCumulativeTransformOutputParser,
    JsonOutputParser,
    PydanticOutputParser,
)
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser, PydanticToolsParser
from langchain_core.outputs import ChatGeneration, Generation

Piece: TypeAlias = str | BaseMessage


class WholeParser(BaseCumulativeTransformOutputParser[Any]):
    """Partial values while streaming; at the end of an answer, a whole value or an exception.

    LangChain's stream never asks for the whole value, so that a cut one would end in a partial value.
    """

    def _transform(self, input: Iterator[Piece]) -> Iterator[Any]:
        pieces, last = list[Piece](), None
        for value in super()._transform(_noted(input, pieces)):
            yield (last := value)
        if pieces and (whole := self.parse_result(_joined(pieces))) != last:
            yield whole

    async def _atransform(self, input: AsyncIterator[Piece]) -> AsyncIterator[Any]:
        pieces, last = list[Piece](), None
        async for value in super()._atransform(_anoted(input, pieces)):
            yield (last := value)
        if pieces and (whole := self.parse_result(_joined(pieces))) != last:
            yield whole


class WholeJsonParser(WholeParser, JsonOutputParser):
    """Of an answer that is JSON."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        if not partial:
            check_whole(result[0].text)
        return super().parse_result(result, partial=partial)


class WholePydanticParser(WholeParser, PydanticOutputParser[Any]):
    """The same for pydantic classes."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        if not partial:
            check_whole(result[0].text)
        return super().parse_result(result, partial=partial)


class WholeCallParser(WholeParser, JsonOutputKeyToolsParser):
    """Of an answer that is a call: its arguments."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        return _call(super().parse_result(result, partial=partial), result, partial)


class WholePydanticCallParser(WholeParser, PydanticToolsParser):
    """The same for pydantic classes."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        return _call(super().parse_result(result, partial=partial), result, partial)


def check_whole(text: str) -> None:
    """Raise OutputParserException, which says what to do, unless the text is one JSON value."""
    try:
        json.loads(text, strict=False)
    except ValueError as error:
        raise _cut(f"the answer is no whole JSON value ({error})", text) from error


def _call(value: Any, result: list[Generation], partial: bool) -> Any:
    """What a parser of calls gives, which at the end is None where no call is whole."""
    if value is None and not partial:
        raise _cut("the answer has no whole call", result[0].text)
    return value


def _cut(what: str, text: str) -> OutputParserException:
    return OutputParserException(
        f"{what}; if max_tokens or a stop string cut it, allow more", llm_output=text
    )


def _noted(input: Iterator[Piece], pieces: list[Piece]) -> Iterator[Piece]:
    for piece in input:
        pieces.append(piece)
        yield piece


async def _anoted(input: AsyncIterator[Piece], pieces: list[Piece]) -> AsyncIterator[Piece]:
    async for piece in input:
        pieces.append(piece)
        yield piece


def _joined(pieces: Sequence[Any]) -> list[Generation]:
    """What a parser takes of the whole answer: chunks of a message, or of a text."""
    first, *others = pieces
    if isinstance(first, BaseMessage):
        return [ChatGeneration(message=first + others if others else first)]
    return [Generation(text="".join(pieces))]
