"""One call on its way: from messages to a turn of the runtime, and from its events to messages."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from langchain_core.messages import BaseMessage

from langchain_sfi.calls import Call
from langchain_sfi.messages import to_prompt
from langchain_sfi.outputs import AnswerReader
from sfi_agent.chat import ChatService, ChatStream


class ChatTurn:
    """A call that has been checked and may be opened, in whatever thread.

    Args:
        call: its settings.
        messages: of the conversation.
        service: gives what answers; it may load a model.

    Attributes:
        reader: of the answer.
    """

    def __init__(
        self, call: Call, messages: Sequence[BaseMessage], service: Callable[[], ChatService]
    ) -> None:
        self._call, self._messages, self._service = call, messages, service
        self.reader = AnswerReader(call.model)

    def open(self) -> ChatStream:
        """Start the turn."""
        chat = self._call.chat(to_prompt(self._messages))
        return self._service().open(chat, self._call.on_progress)
