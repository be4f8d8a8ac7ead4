"""``bind_tools`` and ``with_structured_output``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda, RunnableMap
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_json_schema
from langchain_core.utils.pydantic import TypeBaseModel, is_basemodel_subclass

from langchain_sfi.asks import ask_of, openai_tools
from langchain_sfi.parsers import (
    WholeCallParser,
    WholeJsonParser,
    WholePydanticCallParser,
    WholePydanticParser,
)
from langchain_sfi.recursion import recursive_schema
from langchain_sfi.sessions import SessionChatModel
from sfi_agent.errors import SettingError

METHODS = ("json_schema", "function_calling", "json_mode")


class ToolChatModel(SessionChatModel):
    """A chat model whose calls take tools and schemas.

    Attributes:
        max_string: characters of a string in a constrained answer whose schema sets no ``maxLength``, at
            most. A small model may otherwise repeat itself inside one until its window is full.
    """

    max_string: int = 4096

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | bool | dict[str, Any] | None = None,
        strict: bool | None = None,
        parallel_tool_calls: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """This model with tools.

        Args:
            tools: pydantic classes, functions, JSON schemas with a title, LangChain's or OpenAI's tools.
            tool_choice: ``auto`` (default: text or calls), ``any`` or ``required`` (a call), ``none``
                (text), a tool's name, or OpenAI's dictionary for one.
            strict: True: a parameter schema that cannot wholly be enforced is an error; False: it is
                enforced as far as possible; None: an error only where a call is forced.
            parallel_tool_calls: whether an answer may have several calls; None: unless one is forced.
            **kwargs: any setting of a call.

        Raises:
            SettingError: something of this is not allowed.
        """
        bound = {
            "tools": openai_tools(tools),
            "tool_choice": tool_choice,
            "strict": strict,
            "parallel_tool_calls": parallel_tool_calls,
        }
        named = {name: value for name, value in {**bound, **kwargs}.items() if value is not None}
        ask_of(named, named.get("max_string", self.max_string))
        return cast("Runnable[LanguageModelInput, AIMessage]", self.bind(**named))

    def with_structured_output(
        self,
        schema: dict[str, Any] | type | None = None,
        *,
        method: str = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """This model with answers that follow ``schema``, by grammar: they parse at the first try.

        Args:
            schema: pydantic class, TypedDict or JSON schema with a title; only ``json_mode`` can do
                without.
            method: ``json_schema``: the answer is the JSON; ``function_calling``: it is the arguments of a
                call that is forced; ``json_mode``: as ``json_schema``, or any JSON object without a schema,
                but the prompt is not told of it: your messages must say what you want.
            include_raw: give ``{"raw": message, "parsed": ..., "parsing_error": ...}``, and no exception.
                Without it, an answer that max_tokens cut raises, also at the end of a stream.
            strict: as in :meth:`bind_tools`; by default as in a forced call.
            **kwargs: any setting of a call, or ``tools`` beside the answer.

        Raises:
            SettingError: the method is unknown, or has no schema.
        """
        if method not in METHODS:
            raise SettingError(f"method: must be one of {', '.join(METHODS)} (given {method!r})")
        if schema is None and method != "json_mode":
            raise SettingError(f"schema: method {method!r} needs one; only 'json_mode' can do without")
        form = None if schema is None else _form(schema)
        traced = {"kwargs": {"method": method, "strict": strict}, "schema": form}
        settings = {"strict": strict, "ls_structured_output_format": traced, **kwargs}
        model, parser = self._constrained(schema, form, method, settings)
        return _with_raw(model, parser) if include_raw else model | parser

    def _constrained(
        self, schema: Any, form: dict[str, Any] | None, method: str, settings: dict[str, Any]
    ) -> tuple[Runnable[LanguageModelInput, Any], Runnable[Any, Any]]:
        """The model that is asked, and what reads its answer."""
        pydantic = isinstance(schema, type) and is_basemodel_subclass(schema)
        if method == "function_calling":
            (tool,) = openai_tools([schema])
            name = tool["function"]["name"]
            model = self.bind_tools([schema], tool_choice=name, parallel_tool_calls=False, **settings)
            if pydantic:
                classes = [cast("TypeBaseModel", schema)]
                return model, WholePydanticCallParser(tools=classes, first_tool_only=True)
            return model, WholeCallParser(key_name=name, first_tool_only=True)
        shape: dict[str, Any] = (
            {"type": "json_object"} if form is None else {"type": "json_object", "schema": form}
        )
        if method == "json_schema" and form is not None:
            name = form.get("title", "answer")
            shape = {"type": "json_schema", "json_schema": {"name": name, "schema": form}}
        tools = settings.pop("tools", ())
        model = self.bind_tools(tools, response_format=shape, **settings)
        reads = WholePydanticParser(pydantic_object=schema) if pydantic else WholeJsonParser()
        return model, reads


def _form(schema: Any) -> dict[str, Any]:
    """The JSON schema of what LangChain's users call a schema."""
    try:
        return recursive_schema(schema) or convert_to_json_schema(schema)
    except Exception as error:  # LangChain raises many kinds here
        raise SettingError(
            "schema: must be a pydantic class, a TypedDict or a JSON schema with a title "
            f"(given {' '.join(str(schema).split())[:80]!r}: {' '.join(str(error).split())[:200]})"
        ) from error


def _with_raw(model: Runnable[Any, Any], parser: Runnable[Any, Any]) -> Runnable[Any, Any]:
    def read(given: dict[str, Any], config: RunnableConfig) -> dict[str, Any]:
        """Of the whole message: what comes late in a stream no fallback catches."""
        parsed, failed = None, None
        try:
            parsed = parser.invoke(given["raw"], config)
        except Exception as error:  # whatever a pydantic class's own validators raise, too
            failed = error
        return {**given, "parsed": parsed, "parsing_error": failed}

    return RunnableMap(raw=model) | RunnableLambda(read)
