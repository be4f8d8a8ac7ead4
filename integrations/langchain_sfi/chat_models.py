"""``SFIChatModel``: LangChain's chat model over a runtime in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, closing
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from pydantic import ConfigDict, Field, SkipValidation, ValidationError

from langchain_sfi.asks import ask_of
from langchain_sfi.calls import SAMPLING, SHORTCUTS, TURN, Call, check_names
from langchain_sfi.chat_turns import ChatTurn
from langchain_sfi.messages import to_chat
from langchain_sfi.runtimes import shared_runtime
from langchain_sfi.structured import ToolChatModel
from langchain_sfi.turns import arun_turn, run_turn
from sfi_agent.chat import ChatService, LocalChat
from sfi_agent.errors import SettingError, UnknownNameError
from sfi_agent.policy import Policy, one_line
from sfi_agent.tools import Ask, Event

if TYPE_CHECKING:
    from sfi_agent import Registry, Runtime, TurnResult

# What does not change an answer stays out of the key under which LangChain caches it.
NOT_IN_CACHE_KEY = ("session_id", "on_progress", "timeout")

LOADING = ("device", "dtype", "store")
"""How a model is loaded."""


class SFIChatModel(ToolChatModel):
    """A Hugging Face causal LM, decoded slow-fast in this process.

    The model is loaded at first use and shared by all instances of equal model, device, dtype and store.
    Every setting but ``device``, ``dtype``, ``store``, ``runtime``, ``streaming`` and ``max_retries`` can
    also be given for one call: ``model.invoke(prompt, mode="verified")``.

    Attributes:
        model_name: ``smollm2-135m`` (embedded), a folder, or a hub name; ``model=`` in calls.
        temperature: 0 is greedy.
        max_tokens: tokens to generate at most; None: up to the model's window.
        timeout: seconds for a turn; TurnTimeoutError after that.
        stop: strings that end the answer; a call's ``stop`` takes their place.
        max_retries: as LangChain passes it; a turn in this process is not retried, since what
            failed once would fail again.
        streaming: whether ``invoke`` also goes through the stream.
        top_p: keep the smallest set of tokens with this much probability.
        top_k: keep this many tokens.
        repetition_penalty: above 1 discourages tokens already in the context.
        seed: the same seed, prompt and settings give the same tokens.
        device: ``auto``, ``cpu``, ``cuda``, ...
        dtype: ``auto``, ``float32``, ``bfloat16``, ...
        store: folder in which sessions outlive the process; None: they do not.
        policy: a Policy, the name of one (``balanced``), or a dictionary of the settings in which it
            differs from the runtime's.
        mode: ``dense``, ``sfi`` or ``verified``; over ``policy``.
        selector: name of the selector; over ``policy``.
        budget: positions in sparse memory, or a fraction of the context; over ``policy``.
        session_id: the session whose KV a call continues, unless the call names one. In a thread,
            ``config={"configurable": {"thread_id": "t"}}``, that is ``t``, or ``t/ID`` with this ``ID``:
            models of different prompts in one thread need one each.
        on_progress: called during prefill with the prompt tokens computed and all of them.
        runtime: a ready Runtime instead of model name, device, dtype and store, or another ChatService
            (``sfi_mqtt.BusRuntime``: a runtime on another machine).
        max_string: characters of a string in a constrained answer whose schema sets no limit, at most.
        api_key: accepted from generic code and unused: there is no service.
    """

    model_name: str = Field(default="smollm2-135m", alias="model")
    temperature: float = 0.0
    max_tokens: int | None = None
    timeout: float | None = None
    stop: list[str] | None = Field(default=None, alias="stop_sequences")
    max_retries: int | None = None
    streaming: bool = False
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    device: str = "auto"
    dtype: str = "auto"
    store: str | None = None
    policy: Annotated[Policy | dict[str, Any] | str | None, SkipValidation] = None
    mode: str | None = None
    selector: str | None = None
    budget: Annotated[int | float | None, SkipValidation] = None
    on_progress: Callable[[int, int], None] | None = Field(default=None, exclude=True, repr=False)
    runtime: Any = Field(default=None, exclude=True, repr=False)
    api_key: Any = Field(default=None, exclude=True, repr=False)

    model_config = ConfigDict(populate_by_name=True)

    def __init__(self, **values: Any) -> None:
        """Check every name and value.

        Raises:
            SettingError: one is not allowed; says in one line which.
        """
        fields = type(self).model_fields
        check_names(values, frozenset(fields) | {field.alias for field in fields.values() if field.alias})
        if (runtime := values.get("runtime")) is not None:
            values = _beside(runtime, values)
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise SettingError(one_line(error)) from None
        for layer in self._call(None, {}).policies:
            if isinstance(layer, str) and not isinstance(self.runtime, ChatService):  # it knows its own names
                self._registry.policy(layer)

    @property
    def _registry(self) -> Registry:
        """Which names there are, without a model."""
        if self.runtime is not None:
            return cast("Runtime", self.runtime).registry
        from sfi_agent.registry import default_registry  # imports torch

        return default_registry()

    @property
    def _llm_type(self) -> str:
        return "sfi"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        policy = self.policy.model_dump() if isinstance(self.policy, Policy) else self.policy
        named = ("max_tokens", "max_string", "stop", "device", "dtype", *SAMPLING, *SHORTCUTS)
        return {
            "model_name": self.model_name,
            "policy": policy,
            **{name: getattr(self, name) for name in named},
        }

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop or self.stop, **kwargs)
        params["ls_provider"] = "sfi"
        return params

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        kept = {name: value for name, value in kwargs.items() if name not in NOT_IN_CACHE_KEY}
        return super()._get_llm_string(stop=stop, **kept)

    # The four ways to run a turn.

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        turn = self._turn(stop, kwargs, messages)
        with closing(run_turn(turn.open())) as items:
            *events, result = items
        return turn.reader.whole(cast("list[Event]", events), cast("TurnResult", result))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        turn = self._turn(stop, kwargs, messages)
        with closing(run_turn(turn.open())) as items:
            for chunk in (chunk for item in items for chunk in turn.reader.chunks(item)):
                if run_manager:
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        turn = self._turn(stop, kwargs, messages)
        async with aclosing(arun_turn(turn.open)) as items:
            *events, result = [item async for item in items]
        return turn.reader.whole(cast("list[Event]", events), cast("TurnResult", result))

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        turn = self._turn(stop, kwargs, messages)
        async with aclosing(arun_turn(turn.open)) as items:
            async for item in items:
                for chunk in turn.reader.chunks(item):
                    if run_manager:
                        await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk

    # Counting, for `trim_messages` and the like: with the model's own tokenizer and template.

    def get_token_ids(self, text: str) -> list[int]:
        """Token ids of ``text``, by the model's own tokenizer."""
        return self._service(self.model_name).encode(text, Ask()) if text else []

    def get_num_tokens_from_messages(
        self, messages: list[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        """Tokens of the prompt that ``messages`` and ``tools`` make, by the model's own chat template.

        Raises:
            PromptError: a message holds something that is not text.
        """
        ask = ask_of({"tools": tools}, self.max_string)
        return len(self._service(self.model_name).encode(to_chat(messages), ask))

    def _call(self, stop: list[str] | None, given: dict[str, Any]) -> Call:
        named = ("stop", "policy", "max_string", *SAMPLING, *SHORTCUTS, *TURN)
        defaults = {"model": self.model_name, **{name: getattr(self, name) for name in named}}
        return Call.of(defaults, self._in_thread(None, given), stop)

    def _runtime(self, model: str) -> Runtime:
        if self.runtime is not None and model == self.model_name:
            return cast("Runtime", self.runtime)
        return shared_runtime(model, self.device, self.dtype, self.store)

    def _service(self, model: str) -> ChatService:
        """What answers for ``model``."""
        if isinstance(self.runtime, ChatService):
            if model != self.model_name:
                raise UnknownNameError("model", model, [self.model_name])
            return self.runtime
        return LocalChat(self._runtime(model))

    def _turn(self, stop: list[str] | None, given: dict[str, Any], messages: list[BaseMessage]) -> ChatTurn:
        call = self._call(stop, given)
        return ChatTurn(call, messages, partial(self._service, call.model))


def _beside(runtime: Any, values: dict[str, Any]) -> dict[str, Any]:
    """What is given beside a runtime, with its model's name; that of another ChatService may be given, for
    one that is not there yet cannot tell it."""
    for name in LOADING:
        default = SFIChatModel.model_fields[name].default
        if (given := values.get(name, default)) != default:
            raise SettingError(
                f"{name}: a runtime is loaded already; give it to Runtime.load, or a model's name instead of "
                f"the runtime (given {given!r})"
            )
    if isinstance(runtime, ChatService) and values.keys() & {"model", "model_name"}:
        return values
    return {**{name: value for name, value in values.items() if name != "model_name"}, "model": runtime.name}
