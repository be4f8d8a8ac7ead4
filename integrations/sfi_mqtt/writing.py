"""Requests as a client writes them."""

from __future__ import annotations

import json
import secrets
from typing import Any, TypeVar

from pydantic import ValidationError

from sfi_agent.chat import Chat
from sfi_agent.errors import PromptError, SettingError
from sfi_agent.policy import Policy
from sfi_agent.tools import Ask, whole_characters, whole_value
from sfi_mqtt.requests import DropRequest, EncodeRequest, Request, TurnRequest, problem_of

R = TypeVar("R", bound=Request)


def write_request(request: Request) -> bytes:
    """As JSON, without what is as by default.

    Raises:
        SettingError: it holds what JSON cannot.
    """
    try:
        said = request.model_dump(mode="json", exclude_defaults=True)
        return json.dumps({"version": 1, "kind": request.kind, **said}).encode()
    except (TypeError, ValueError, RecursionError) as error:
        told = " ".join(str(error).split())[:200]
        raise SettingError(
            f"request: JSON cannot hold it ({told}); use plain values that nest less"
        ) from None


def turn_request(chat: Chat) -> TurnRequest:
    """The request that says what ``chat`` does.

    Where tokens are drawn it has a seed: a turn that a restarted runtime runs again then says the same.

    Raises:
        PromptError: there are no messages.
        SettingError: a message holds what cannot be sent.
    """
    sampling = chat.sampling
    if sampling.temperature > 0 and sampling.seed is None:
        sampling = sampling.but(seed=secrets.randbits(63))
    layers = [layer.model_dump() if isinstance(layer, Policy) else layer for layer in chat.policies]
    fields = {
        **_asked(chat.messages, chat.ask),
        "policies": layers,
        "sampling": sampling,
        "session": chat.session,
        "timeout": chat.timeout,
    }
    return _valid(TurnRequest, fields)


def encode_request(prompt: Any, ask: Ask) -> EncodeRequest:
    """The request for the tokens of a text, or of messages with what ``ask`` tells of.

    Raises:
        PromptError: there are no messages.
        SettingError: a message holds what cannot be sent.
    """
    if isinstance(prompt, str):
        return EncodeRequest(text=whole_characters(prompt))
    return _valid(EncodeRequest, _asked(prompt, ask))


def drop_request(session: str, stored: bool) -> DropRequest:
    """The request to forget a session; SettingError where no session can have this id."""
    return _valid(DropRequest, {"session": session, "stored": stored})


def _valid(kind: type[R], fields: dict[str, Any]) -> R:
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise SettingError(problem_of(error)) from None


def _asked(messages: Any, ask: Ask) -> dict[str, Any]:
    if not messages:
        raise PromptError("the prompt is empty; give it at least one message")
    return {
        "messages": [whole_value(dict(message)) for message in messages],
        "tools": [tool.openai for tool in ask.tools],
        "tool_choice": _chosen(ask),
        "parallel": ask.parallel,
        "answer_schema": ask.schema,
        "told": ask.told,
        "strict": ask.strict,
        "max_string": ask.max_string,
    }


def _chosen(ask: Ask) -> str:
    """The word, or the name, that :func:`sfi_agent.tools.choice_of` reads as this choice."""
    if not ask.choice.tools:
        return "none"
    if not ask.choice.forced:
        return "auto"
    return "any" if len(ask.choice.tools) == len(ask.tools) else ask.choice.tools[0].name
