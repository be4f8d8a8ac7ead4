"""A chat model whose calls continue the session of the thread they belong to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables import RunnableConfig, ensure_config


class SessionChatModel(BaseChatModel):
    """Hands the session to the model as ``session_id``: the call's own, else that of the thread.

    LangChain keeps ``config`` from ``_generate`` and ``_stream``, so each public way in is widened;
    ``batch``, ``abatch`` and chains come through these.
    """

    session_id: str | None = None

    def _in_thread(self, config: RunnableConfig | None, kwargs: dict[str, Any]) -> dict[str, Any]:
        """``kwargs`` with ``session_id``: their own, else the ``thread_id`` in ``config``.

        The model's own ``session_id`` stands behind the thread's, so that two models have two sessions there.
        A ``config`` that names no thread falls back to that of the graph or chain around this call.
        """
        if kwargs.get("session_id") is not None:
            return kwargs
        thread = ensure_config(config).get("configurable", {}).get("thread_id")
        if thread is None:
            return kwargs
        return {**kwargs, "session_id": f"{thread}/{self.session_id}" if self.session_id else str(thread)}

    def invoke(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AIMessage:
        return super().invoke(input, config, **self._in_thread(config, kwargs))

    async def ainvoke(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AIMessage:
        return await super().ainvoke(input, config, **self._in_thread(config, kwargs))

    def stream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[AIMessageChunk]:
        return super().stream(input, config, **self._in_thread(config, kwargs))

    def astream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[AIMessageChunk]:
        return super().astream(input, config, **self._in_thread(config, kwargs))

    def stream_events(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Any:
        return super().stream_events(input, config, **self._in_thread(config, kwargs))

    def astream_events(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Any:
        return super().astream_events(input, config, **self._in_thread(config, kwargs))
