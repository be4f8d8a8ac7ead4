"""LangChain's own tests of a chat model whose runtime is reached over the bus."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage

from langchain_sfi import SFIChatModel
from sfi_agent import Runtime
from sfi_agent.errors import PromptError, SettingError, TurnTimeoutError, UnknownNameError
from sfi_mqtt import BusRuntime, BusService, Limits
from sfi_mqtt.embedded import EmbeddedBroker
from tests.integrations.langchain_sfi import test_scripted, test_standard
from tests.integrations.langchain_sfi.scripted import scripted_runtime
from tests.integrations.sfi_mqtt.brokers import PATIENCE, QUICK, free_port, wait_until
from tests.integrations.sfi_mqtt.serving import NAME, numbers


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Of an embedded broker, which speaks MQTT 3.1.1: mosquitto's tests have version 5."""
    port = free_port()
    with EmbeddedBroker(port):
        yield f"mqtt://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def far(url: str) -> Iterator[BusRuntime]:
    """A scripted runtime, as a client of the bus sees it."""
    with scripted_runtime(test_scripted.script) as runtime:
        runtime.model.misled = True
        with (
            BusService(url, runtime, name="scripted", grace=0.2, backoff=QUICK),
            BusRuntime(url, "scripted", patience=PATIENCE, backoff=QUICK) as client,
        ):
            yield client


@pytest.fixture
def counting(url: str, runtime: Runtime) -> Iterator[SFIChatModel]:
    with (
        BusService(url, runtime, name=NAME, grace=0.2, backoff=QUICK),
        BusRuntime(url, NAME, patience=PATIENCE, backoff=QUICK) as client,
    ):
        yield SFIChatModel(runtime=client, max_tokens=20_000)


# Without a recorded exchange the suite's timing test streams once and times nothing.
@pytest.mark.filterwarnings("ignore:Benchmark fixture was not used")
class TestScriptedOverTheBus(test_scripted.TestScriptedModel):
    @pytest.fixture
    def model(self, far: BusRuntime) -> BaseChatModel:
        return SFIChatModel(runtime=far, mode="verified", max_tokens=300, max_string=40)


@pytest.fixture(scope="module")
def embedded(request: pytest.FixtureRequest, url: str) -> Iterator[BusRuntime]:
    if not request.config.getoption("--chaos"):
        pytest.skip("minutes long; make chaos has it")
    with (
        Runtime.load(test_standard.MODEL) as runtime,
        BusService(url, runtime, name="embedded"),
        BusRuntime(url, "embedded") as client,
    ):
        yield client


@pytest.mark.chaos
@pytest.mark.filterwarnings("ignore:Benchmark fixture was not used")
class TestEmbeddedOverTheBus(test_standard.TestEmbeddedModel):
    """The embedded model, in the long form of the tests only: decoding it takes minutes."""

    @pytest.fixture
    def model(self, embedded: BusRuntime) -> BaseChatModel:
        return SFIChatModel(runtime=embedded, **self.own_params)

    @property
    def own_params(self) -> dict[str, Any]:
        return {name: value for name, value in self.chat_model_params.items() if name != "model"}

    @property
    def supports_model_override(self) -> bool:
        return False  # one runtime, one model

    def invoke_with_cache_read_input(self, *, stream: bool = False) -> AIMessage:
        pytest.skip("makes a model of its own; sessions over the bus have their tests here")


def test_a_session_pays_for_its_new_tokens_only(counting: SFIChatModel) -> None:
    thread = {"configurable": {"thread_id": "t"}}
    first = HumanMessage("Count to 30.")
    answer = counting.invoke([first], thread)
    again = counting.invoke([first, answer, HumanMessage("Hello")], thread)
    read = again.usage_metadata["input_token_details"]["cache_read"]
    assert answer.text == f"{numbers(30)} ."
    assert again.text == "3 messages"
    assert read >= answer.usage_metadata["total_tokens"] - 1


def test_it_streams_what_it_invokes(counting: SFIChatModel) -> None:
    pieces = [chunk.text for chunk in counting.stream("Count to 50.")]
    assert "".join(pieces) == f"{numbers(50)} ."
    assert len(pieces) > 5


def test_progress_is_told(counting: SFIChatModel) -> None:
    told: list[tuple[int, int]] = []
    counting.invoke("Hello " * 200, on_progress=lambda *at: told.append(at))
    assert told
    assert told[-1][0] <= told[-1][1]


async def test_a_cancelled_task_ends_the_turn_at_the_other_end(
    counting: SFIChatModel, runtime: Runtime
) -> None:
    stream = counting.astream("Count to 3000.", session_id="cancelled")
    assert (await anext(stream)).text
    await stream.aclose()
    session = runtime.sessions["cancelled"]
    await asyncio.to_thread(wait_until, lambda: not session.lock.locked())
    assert len(session.tokens) < 3000


async def test_a_task_cancelled_before_its_turn_begins_leaves_nobody_waiting(
    url: str, runtime: Runtime
) -> None:
    """Its thread, without whose end the process has none, waits neither for a place nor for a runtime."""
    before = runtime.recorder.turns
    with (
        BusRuntime(url, "alone", patience=PATIENCE * 4, backoff=QUICK) as client,
        BusRuntime(url, "nobody", patience=PATIENCE * 4, backoff=QUICK) as away,
        BusService(url, runtime, name="alone", limits=Limits(together=1), grace=0.2, backoff=QUICK),
    ):
        long = SFIChatModel(runtime=client, max_tokens=20_000).astream("Count to 3000.")
        assert (await anext(long)).text
        for service in (client, away):
            asked = SFIChatModel(runtime=service, model="any").ainvoke("Count to 3.")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asked, 0.3)
        await asyncio.to_thread(wait_until, lambda: turn_threads() == 1)
        await long.aclose()
        await asyncio.to_thread(wait_until, lambda: turn_threads() == 0)
    assert runtime.recorder.turns == before + 1


def turn_threads() -> int:
    """Threads of LangChain's asynchronous turns."""
    return sum(thread.name == "sfi-turn" for thread in threading.enumerate())


def test_errors_are_those_of_a_runtime_here(counting: SFIChatModel) -> None:
    with pytest.raises(SettingError, match="known: balanced, exact, fast"):
        counting.invoke("Hello", policy="nope")
    with pytest.raises(TurnTimeoutError, match="deadline"):
        counting.invoke("Count to 3000.", timeout=0.3)
    with pytest.raises(PromptError, match="window"):
        counting.invoke("Hello", max_tokens=10**6)
    for ask in (counting.invoke, counting.get_num_tokens_from_messages):
        with pytest.raises(PromptError, match="the prompt is empty"):
            ask([])
    with pytest.raises(UnknownNameError, match="unknown model 'other'"):
        counting.invoke("Hello", model="other")


def test_half_a_character_is_read_as_by_a_runtime_here(counting: SFIChatModel, runtime: Runtime) -> None:
    asked = [HumanMessage("caf\udce9, and \ud83d\ude00")]
    here = SFIChatModel(runtime=runtime)
    assert counting.get_num_tokens_from_messages(asked) == here.get_num_tokens_from_messages(asked)
    assert counting.get_num_tokens("\ud800") == here.get_num_tokens("\ud800")
    assert counting.invoke(asked).text == "1 messages"


def test_it_counts_tokens(counting: SFIChatModel, runtime: Runtime) -> None:
    assert counting.get_num_tokens("abc") == 3
    assert counting.get_num_tokens_from_messages([HumanMessage("abc")]) == len(runtime.encode("abc"))
