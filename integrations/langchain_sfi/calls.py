"""What one call asks for: the constructor's settings, then those of the call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_sfi.asks import ASK_SETTINGS, ask_of
from sfi_agent.chat import Chat, Layer
from sfi_agent.errors import SettingError, UnknownNameError
from sfi_agent.policy import Policy, Sampling
from sfi_agent.tools import Ask

SAMPLING = ("temperature", "top_p", "top_k", "repetition_penalty", "seed")
SHORTCUTS = ("mode", "selector", "budget")
TURN = ("max_tokens", "timeout", "session_id", "on_progress")
CALL_SETTINGS = frozenset({"model", "policy", *SAMPLING, *SHORTCUTS, *TURN, *ASK_SETTINGS})
# LangChain hands these to every chat model; they do not concern the engine.
LANGCHAIN_SETTINGS = frozenset(
    {"stream", "stream_usage", "ls_structured_output_format", "structured_output_format"}
)


@dataclass(frozen=True)
class Call:
    """A call's settings, checked.

    Attributes:
        model: name of the model.
        policies: what is laid over the runtime's policy, in this order: a Policy, or the name of one,
            takes its place, a dictionary changes some of its settings.
        sampling: how tokens are drawn and when the turn stops.
        ask: tools and schema.
        session: id of the session, or None.
        timeout: seconds for the turn, or None.
        on_progress: called with (prompt tokens computed, prompt tokens) during prefill, or None.
    """

    model: str
    policies: tuple[Layer, ...]
    sampling: Sampling
    ask: Ask
    session: str | None
    timeout: float | None
    on_progress: Callable[[int, int], None] | None

    @classmethod
    def of(cls, defaults: Mapping[str, Any], given: Mapping[str, Any], stop: Sequence[str] | None) -> Call:
        """The settings in ``given`` over ``defaults``; a None in ``given`` leaves the default.

        Raises:
            SettingError: a name or a value is not allowed.
        """
        check_names(given, CALL_SETTINGS, LANGCHAIN_SETTINGS)
        changed = {name: value for name, value in given.items() if value is not None}
        merged = {**defaults, **changed}
        return cls(
            model=merged["model"],
            policies=(*_policies(defaults), *_policies(changed)),
            sampling=_sampling(merged, stop),
            ask=ask_of(changed, merged["max_string"]),
            session=_session(merged["session_id"]),
            timeout=_timeout(merged["timeout"]),
            on_progress=merged["on_progress"],
        )

    def chat(self, messages: Sequence[Mapping[str, Any]]) -> Chat:
        """The request that says all this of ``messages``, as chat templates read them."""
        return Chat(messages, self.ask, self.policies, self.sampling, self.session, self.timeout)


def check_names(
    given: Mapping[str, Any], known: frozenset[str], ignored: frozenset[str] = frozenset()
) -> None:
    """Raise UnknownNameError, which lists the known names, for the first that is not among them."""
    for name in given:
        if name not in known and name not in ignored:
            raise UnknownNameError("setting", name, known)


def _policies(settings: Mapping[str, Any]) -> tuple[Layer, ...]:
    policy = settings.get("policy")
    if not isinstance(policy, Policy | Mapping | str | None):
        raise SettingError(
            f"policy: must be a Policy, a policy's name or a dictionary of settings (given {policy!r})"
        )
    shortcuts = {name: settings[name] for name in SHORTCUTS if settings.get(name) is not None}
    layers = tuple(layer for layer in (policy, shortcuts) if layer)
    for layer in layers:
        if isinstance(layer, Mapping):
            Policy.of(**layer)  # a bad setting is named now, not when the model has been loaded
    return layers


def _sampling(settings: Mapping[str, Any], stop: Sequence[str] | None) -> Sampling:
    values = {name: settings[name] for name in SAMPLING if settings[name] is not None}
    stop = settings["stop"] if stop is None else stop
    try:
        return Sampling.of(**values, stop=stop or (), max_new_tokens=settings["max_tokens"])
    except SettingError as error:  # name the setting as LangChain's users wrote it
        raise SettingError(str(error).replace("max_new_tokens", "max_tokens")) from None


def _session(session: Any) -> str | None:
    return None if session is None else str(session)


def _timeout(timeout: Any) -> float | None:
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout > 0:
        raise SettingError(f"timeout: must be a number of seconds above 0 (given {timeout!r})")
    return float(timeout)
