"""What is asked over the bus: one class a kind of request, read strictly, and their limits.

::

    sfi/<runtime>/requests              requests; each names a topic for its answer, and correlation data
    sfi/<runtime>/replies/<any levels>  where answers may go
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, TypeAdapter, ValidationError

from sfi_agent.chat import Chat, Layer
from sfi_agent.errors import SFIError, TurnTimeoutError
from sfi_agent.policy import Sampling
from sfi_agent.tools import Ask, Tool, choice_of

MAX_BYTES = 8 * 2**20
"""Of a request."""
MAX_DEPTH = 64
"""Brackets within brackets in a request."""
_STRINGS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
"""JSON's; one without an end ends with the payload, and nothing is looked at twice."""
_BRACKETS = re.compile(rb"[\[\]{}]")


class RequestError(SFIError):
    """A request that cannot be read.

    Attributes:
        code: as an error answer gives it.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class _Request(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1


class ChatMessage(BaseModel):
    """One message of a conversation, as OpenAI's, but a call's arguments are an object.

    Attributes:
        role: ``system``, ``user``, ``assistant``, ``tool``, or what else the model's template knows.
        content: its text.
        name: of who speaks, or of the tool.
        tool_calls: of an assistant.
        tool_call_id: which call a tool's message answers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: str
    content: str = ""
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None

    @property
    def plain(self) -> dict[str, Any]:
        """For a chat template."""
        return self.model_dump(exclude_none=True)


class _Asking(_Request):
    """What says how messages become a prompt.

    Attributes:
        version: version of the format.
        messages: the whole conversation so far.
        tools: OpenAI's form each.
        tool_choice: ``auto``, ``any``, ``none`` or a tool's name.
        parallel: several calls in one answer; null: only where none is forced.
        answer_schema: JSON schema that the answer follows.
        told: whether the prompt shows that schema.
        strict: whether a schema must be enforced wholly; null: where the answer is forced.
        max_string: characters of a JSON string whose schema sets no limit.
    """

    messages: list[ChatMessage] = Field(min_length=1)
    tools: list[dict[str, Any]] = []
    tool_choice: str | None = None
    parallel: bool | None = None
    answer_schema: dict[str, Any] | None = None
    told: bool = True
    strict: bool | None = None
    max_string: int = Field(default=4096, ge=1)

    @property
    def prompt(self) -> list[dict[str, Any]]:
        """The messages, for a chat template."""
        return [message.plain for message in self.messages]

    def ask(self) -> Ask:
        """Tools and schema; raises SettingError where they are not allowed."""
        tools = tuple(Tool.of(tool) for tool in self.tools)
        return Ask(
            tools=tools,
            choice=choice_of(tools, self.tool_choice),
            parallel=self.parallel,
            schema=self.answer_schema,
            told=self.told,
            strict=self.strict,
            max_string=self.max_string,
        )


class TurnRequest(_Asking):
    """Run a turn. Its answer is ``started``, then ``tokens`` in order, then ``answer``; or ``error``.

    Attributes:
        kind: always ``turn``.
        policies: laid over the runtime's, in this order: a name, or settings that change.
        sampling: how tokens are drawn and when the turn stops.
        session: id of the conversation to continue or begin.
        timeout: seconds for the turn, waiting included.
    """

    kind: Literal["turn"] = "turn"
    policies: list[str | dict[str, Any]] = []
    sampling: Sampling = Sampling()
    session: str | None = Field(default=None, min_length=1, max_length=200)
    timeout: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    def chat(self, waited: float) -> Chat:
        """The chat to be answered, ``waited`` seconds after it came.

        Raises:
            SettingError: tools or a policy's settings are not allowed.
            TurnTimeoutError: it waited too long.
        """
        left = None if self.timeout is None else self.timeout - waited
        if left is not None and left <= 0:
            raise TurnTimeoutError("the turn passed its deadline before it could begin; allow it more time")
        layers: tuple[Layer, ...] = tuple(self.policies)
        return Chat(self.prompt, self.ask(), layers, self.sampling, self.session, left)


class EncodeRequest(_Asking):
    """Count: how messages, or a text, become tokens. Its answer is ``encoded``.

    Attributes:
        kind: always ``encode``.
        text: raw text instead of messages.
    """

    kind: Literal["encode"] = "encode"
    messages: list[ChatMessage] = []
    text: str | None = None


class CancelRequest(_Request):
    """End the turn whose request had the same reply topic and correlation data; its answer then comes.

    Attributes:
        version: version of the format.
        kind: always ``cancel``.
    """

    kind: Literal["cancel"] = "cancel"


class ListRequest(_Request):
    """List the sessions in memory and in the store. Its answer is ``sessions``.

    Attributes:
        version: version of the format.
        kind: always ``list_sessions``.
    """

    kind: Literal["list_sessions"] = "list_sessions"


class DropRequest(_Request):
    """Forget a session; ids that are not known are fine. Its answer is ``dropped``.

    Attributes:
        version: version of the format.
        kind: always ``drop_session``.
        session: its id.
        stored: delete it from the store, too.
    """

    kind: Literal["drop_session"] = "drop_session"
    session: str = Field(min_length=1, max_length=200)
    stored: bool = False


Request = TurnRequest | EncodeRequest | CancelRequest | ListRequest | DropRequest
REQUESTS: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Discriminator("kind")])


def read_request(payload: bytes, max_bytes: int = MAX_BYTES) -> Request:
    """The request in a payload.

    Raises:
        RequestError: it is too large, too deep, no JSON, or not what a request may be; says which.
    """
    if len(payload) > max_bytes:
        raise RequestError(
            "too_large", f"the request has {len(payload)} bytes, and {max_bytes} are allowed; send less"
        )
    if _depth(payload) > MAX_DEPTH:
        raise RequestError("malformed", f"brackets nest deeper than {MAX_DEPTH}; send a flatter request")
    try:
        return REQUESTS.validate_json(payload)
    except ValidationError as error:
        raise RequestError("malformed", problem_of(error)) from None


def problem_of(error: ValidationError) -> str:
    """The first problem in one line, without the value, which may be long."""
    problem = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    return " ".join(f"{where or 'request'}: {problem['msg']}".split())[:500]


def _depth(payload: bytes) -> int:
    """How deep brackets nest, those in strings aside."""
    deepest = depth = 0
    for bracket in _BRACKETS.findall(_STRINGS.sub(b"", payload)):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest
