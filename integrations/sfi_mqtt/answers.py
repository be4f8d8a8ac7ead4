"""What is answered over the bus: one class a kind of message.

Each goes to the request's reply topic with its correlation data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, TypeAdapter

from sfi_agent.errors import (
    PromptError,
    ServiceError,
    SessionError,
    SettingError,
    SFIError,
    TurnTimeoutError,
)
from sfi_agent.runtime.result import TurnResult
from sfi_agent.tools import Event, Text
from sfi_mqtt.parts import Part, parts

ERRORS: dict[str, type[SFIError]] = {
    "setting": SettingError,
    "prompt": PromptError,
    "timeout": TurnTimeoutError,
    "session": SessionError,
}
"""Codes of errors that have a class of their own, the others being ServiceErrors."""


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1


class Started(_Answer):
    """The turn begins.

    Attributes:
        version: version of the format.
        kind: always ``started``.
        prompt_tokens: tokens of the whole prompt.
    """

    kind: Literal["started"] = "started"
    prompt_tokens: int


class Progress(_Answer):
    """The prompt is being read; sent only while nothing else is to say.

    Attributes:
        version: version of the format.
        kind: always ``progress``.
        done: prompt tokens read.
        total: prompt tokens.
    """

    kind: Literal["progress"] = "progress"
    done: int
    total: int


class Tokens(_Answer):
    """A piece of the answer.

    Attributes:
        version: version of the format.
        kind: always ``tokens``.
        at: how much came before: characters of text, reasoning and arguments, and one for each other part. A
            piece may come twice, also joined with others: skip what you have.
        parts: of the answer.
    """

    kind: Literal["tokens"] = "tokens"
    at: int
    parts: list[Part]


class Answer(_Answer):
    """The whole answer; nothing comes after it.

    Attributes:
        version: version of the format.
        kind: always ``answer``.
        content: its text, without calls and reasoning.
        parts: all of it.
        result: the text as the model wrote it, and what it cost.
    """

    kind: Literal["answer"] = "answer"
    content: str
    parts: list[Part]
    result: TurnResult


class Error(_Answer):
    """The request failed, or is refused; nothing comes after it.

    Attributes:
        version: version of the format.
        kind: always ``error``.
        code: ``malformed``, ``too_large``, ``setting``, ``prompt``, ``session``, ``timeout``, ``expired``,
            ``busy``, ``closing``, ``cancelled`` (before it began), ``unknown_turn`` or ``internal``.
        message: in one line, and what to do.
    """

    kind: Literal["error"] = "error"
    code: str
    message: str

    @classmethod
    def of(cls, error: Exception) -> Error:
        """The answer that tells of ``error``; what is not ours is told by its type alone."""
        if not isinstance(error, SFIError):
            told = f"{type(error).__name__} inside the runtime; its log has the rest"
            return cls(code="internal", message=told)
        named = getattr(error, "code", None)
        code = named or next((code for code, kind in ERRORS.items() if isinstance(error, kind)), "internal")
        return cls(code=code, message=" ".join(str(error).split()))

    def error(self) -> SFIError:
        """The error that this tells of."""
        return ERRORS.get(self.code, ServiceError)(self.message)


class SessionLine(BaseModel):
    """One session.

    Attributes:
        id: of the session.
        turns: that it had.
        tokens: of the conversation.
        in_memory: whether it is.
        stored: whether the store has it.
    """

    id: str
    turns: int
    tokens: int
    in_memory: bool
    stored: bool


class Sessions(_Answer):
    """The sessions that the runtime knows.

    Attributes:
        version: version of the format.
        kind: always ``sessions``.
        sessions: by id.
    """

    kind: Literal["sessions"] = "sessions"
    sessions: list[SessionLine]


class Dropped(_Answer):
    """The session is forgotten.

    Attributes:
        version: version of the format.
        kind: always ``dropped``.
        session: its id.
    """

    kind: Literal["dropped"] = "dropped"
    session: str


class Encoded(_Answer):
    """Token ids.

    Attributes:
        version: version of the format.
        kind: always ``encoded``.
        token_ids: of the text, or of the messages in the model's template.
    """

    kind: Literal["encoded"] = "encoded"
    token_ids: list[int]


Reply = Started | Progress | Tokens | Answer | Error | Sessions | Dropped | Encoded
REPLIES: TypeAdapter[Reply] = TypeAdapter(Annotated[Reply, Discriminator("kind")])
LAST = (Answer, Error, Sessions, Dropped, Encoded)
"""Kinds after which nothing comes."""


def payload(reply: Reply) -> bytes:
    """As JSON."""
    return reply.model_dump_json().encode()


def answer(result: TurnResult, events: Sequence[Event]) -> Answer:
    """The answer of a turn that gave ``events``."""
    content = "".join(event.text for event in events if isinstance(event, Text))
    return Answer(content=content, parts=parts(events), result=result)
