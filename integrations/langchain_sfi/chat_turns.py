"""One call on its way: from messages to a turn of the runtime, and from its text to messages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from langchain_core.messages import BaseMessage

from langchain_sfi.calls import Call
from langchain_sfi.messages import to_chat
from langchain_sfi.outputs import AnswerReader
from sfi_agent.tools import Ask

if TYPE_CHECKING:
    from sfi_agent import Runtime, TurnStream


class ChatTurn:
    """A call that has been checked and may be opened, in whatever thread.

    Args:
        call: its settings.
        messages: of the conversation.
        runtime: gives the runtime; it may load a model.

    Attributes:
        reader: of the answer; ready once the turn is open.
    """

    reader: AnswerReader

    def __init__(self, call: Call, messages: Sequence[BaseMessage], runtime: Callable[[], Runtime]) -> None:
        self._call, self._messages, self._load = call, messages, runtime

    def open(self) -> TurnStream:
        """Start the turn."""
        call, runtime = self._call, self._load()
        prompt = encoded(runtime, self._messages, call.ask)
        self.reader = AnswerReader(call.model, runtime.dialect.parser(call.ask, prompt))
        return runtime.stream(
            prompt,
            policy=call.policy(runtime.policy, runtime.registry),
            sampling=call.sampling,
            ask=call.ask,
            session=call.session,
            timeout=call.timeout,
            on_progress=call.on_progress,
        )


def encoded(runtime: Runtime, messages: Sequence[BaseMessage], ask: Ask) -> list[int]:
    """Token ids of the messages and of the tools that the prompt tells of."""
    told, tools = runtime.dialect.prompt(to_chat(messages), ask)
    return runtime.encode(told, tools=tools)
