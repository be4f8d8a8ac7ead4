"""Chat requests, and what answers them: a runtime in this process, or one reached some other way.

An integration that has messages and tools builds a :class:`Chat` and asks a :class:`ChatService`; it need
not know where the model is. A transport (the MQTT bus) is a service on one side and, on the other, hands
what arrives to :class:`LocalChat`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from sfi_agent.policy import Policy, Sampling
from sfi_agent.progress import Progress
from sfi_agent.tools import Ask, Event, Parser

if TYPE_CHECKING:
    from sfi_agent.registry import Registry
    from sfi_agent.runtime.result import TurnResult
    from sfi_agent.runtime.runtime import Runtime
    from sfi_agent.runtime.stream import TurnStream

Layer = Policy | Mapping[str, Any] | str


@dataclass(frozen=True)
class Chat:
    """One request.

    Attributes:
        messages: the conversation so far, ``{"role": ..., "content": ...}`` each, for a chat template.
        ask: tools and schema.
        policies: laid over the runtime's policy, in this order: a Policy, or the name of one, takes its
            place, a dictionary changes some of its settings.
        sampling: how tokens are drawn and when the turn stops.
        session: id of the conversation to continue or begin; None: forget it afterwards.
        timeout: seconds for the turn; None: no limit.
    """

    messages: Sequence[Mapping[str, Any]]
    ask: Ask = field(default_factory=Ask)
    policies: tuple[Layer, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    session: str | None = None
    timeout: float | None = None

    def policy(self, base: Policy, registry: Registry) -> Policy:
        """The policy of the turn, where the runtime's own is ``base`` and names are in ``registry``.

        Raises:
            UnknownNameError: no policy has that name.
        """
        for layer in self.policies:
            if isinstance(layer, str):
                base = registry.policy(layer)
            else:
                base = layer if isinstance(layer, Policy) else base.but(**layer)
        return base


class ChatStream(ABC):
    """An answer as it comes: iterate for its events, close to cancel, then read ``result``.

    One thread iterates; any may cancel or close. Also a context manager that closes it.

    Attributes:
        prompt_tokens: tokens of the whole prompt.
    """

    prompt_tokens: int

    def __iter__(self) -> Self:
        return self

    @abstractmethod
    def __next__(self) -> list[Event]:
        """The next events, of text, reasoning and calls; may be empty."""

    @abstractmethod
    def cancel(self) -> None:
        """Have the turn end before its next step; returns at once."""

    @abstractmethod
    def close(self) -> None:
        """End the turn."""

    @property
    @abstractmethod
    def result(self) -> TurnResult:
        """The answer and what it cost, once no more events come."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ChatService(ABC):
    """Something that answers chats. Safe from threads."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Of the model."""

    @abstractmethod
    def open(self, chat: Chat, on_progress: Progress | None = None) -> ChatStream:
        """Start a turn; ``on_progress`` is called with (prompt tokens read, prompt tokens) while it reads.

        Raises:
            SFIError: as :meth:`sfi_agent.Runtime.stream`.
        """

    @abstractmethod
    def encode(self, prompt: str | Sequence[Mapping[str, Any]], ask: Ask) -> list[int]:
        """Token ids of raw text, or of messages with the tools and the schema that ``ask`` tells of.

        Raises:
            PromptError: it is empty, or the chat template refuses it.
        """


class LocalChat(ChatService):
    """Answers with a runtime of this process."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    @property
    def name(self) -> str:
        return self._runtime.name

    def open(self, chat: Chat, on_progress: Progress | None = None) -> ChatStream:
        runtime = self._runtime
        prompt = self.encode(chat.messages, chat.ask)
        turn = runtime.stream(
            prompt,
            policy=chat.policy(runtime.policy, runtime.registry),
            sampling=chat.sampling,
            ask=chat.ask,
            session=chat.session,
            timeout=chat.timeout,
            on_progress=on_progress,
        )
        results = any(message.get("role") == "tool" for message in chat.messages)
        parser = runtime.dialect.parser(chat.ask, prompt, results=results)
        return _LocalStream(turn, parser, len(prompt))

    def encode(self, prompt: str | Sequence[Mapping[str, Any]], ask: Ask) -> list[int]:
        if isinstance(prompt, str):
            return self._runtime.encode(prompt, raw=True)
        told, tools = self._runtime.dialect.prompt(prompt, ask)
        return self._runtime.encode(told, tools=tools)


class _LocalStream(ChatStream):
    """A turn of a runtime, parsed as it comes."""

    def __init__(self, turn: TurnStream, parser: Parser, prompt_tokens: int) -> None:
        self._turn, self._parser, self.prompt_tokens = turn, parser, prompt_tokens
        self._finished = False

    def __next__(self) -> list[Event]:
        if self._finished:
            raise StopIteration
        if (chunk := next(self._turn, None)) is not None:
            return self._parser.feed(chunk.text)
        self._finished = True
        return self._parser.finish()

    def cancel(self) -> None:
        self._turn.cancel()

    def close(self) -> None:
        self._turn.close()

    @property
    def result(self) -> TurnResult:
        return self._turn.result
