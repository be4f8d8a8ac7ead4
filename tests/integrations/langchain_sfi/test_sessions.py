"""A conversation pays for its new tokens only, however its session is named."""

from __future__ import annotations

import uuid
import warnings
from pathlib import Path
from typing import Any

import pytest
from langchain_core._api import LangChainBetaWarning
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda

from langchain_sfi import SFIChatModel
from sfi_agent import Runtime


@pytest.fixture
def thread() -> RunnableConfig:
    return {"configurable": {"thread_id": uuid.uuid4().hex}}


def _asked(answer: BaseMessage) -> list[BaseMessage]:
    return [HumanMessage("Hi"), AIMessage(answer.text), HumanMessage("And then?")]


def _reused(answer: BaseMessage) -> int:
    assert isinstance(answer, AIMessage)
    assert answer.usage_metadata is not None
    return answer.usage_metadata["input_token_details"]["cache_read"]


def _spent(answer: BaseMessage) -> int:
    assert isinstance(answer, AIMessage)
    assert answer.usage_metadata is not None
    return answer.usage_metadata["total_tokens"]


def test_a_second_turn_reuses_the_first(chat: SFIChatModel, thread: RunnableConfig) -> None:
    first = chat.invoke("Hi", thread, mode="dense")
    second = chat.invoke(_asked(first), thread, mode="dense")
    assert _reused(first) == 0
    assert _spent(first) - 1 <= _reused(second) <= _spent(first)
    assert second.content == chat.invoke(_asked(first), mode="dense").content
    assert second.response_metadata["session"] == thread["configurable"]["thread_id"]


def test_a_thread_goes_on_in_another_process(
    runtime: Runtime, thread: RunnableConfig, tmp_path: Path
) -> None:
    """As far as this process can tell: in another runtime, by way of the disk."""

    def chat() -> tuple[Runtime, SFIChatModel]:
        opened = Runtime.load(runtime.model, tokenizer=runtime.tokenizer, store=tmp_path)
        return opened, SFIChatModel(runtime=opened, max_tokens=24, mode="dense")

    opened, model = chat()
    first = model.invoke("Hi", thread)
    opened.close()
    opened, model = chat()
    second = model.invoke(_asked(first), thread)
    opened.close()
    assert _spent(first) - 1 <= _reused(second) <= _spent(first)


def test_without_a_thread_nothing_is_kept(chat: SFIChatModel) -> None:
    assert _reused(chat.invoke(_asked(chat.invoke("Hi")))) == 0


async def test_every_way_in_follows_the_thread(chat: SFIChatModel, thread: RunnableConfig) -> None:
    asked = _asked(chat.invoke("Hi", thread))
    assert _reused(list(chat.stream(asked, thread))[-1]) > 0
    assert _reused(await chat.ainvoke(asked, thread)) > 0
    assert _reused([chunk async for chunk in chat.astream(asked, thread)][-1]) > 0
    assert _reused(chat.batch([asked], thread)[0]) > 0
    assert _reused((await chat.abatch([asked], thread))[0]) > 0
    ends = [e async for e in chat.astream_events(asked, thread) if e["event"] == "on_chat_model_end"]
    assert _reused(ends[0]["data"]["output"]) > 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LangChainBetaWarning)  # version 3 says that it is new
        assert _reused(chat.stream_events(asked, thread, version="v3").output) > 0
        assert _reused(await (await chat.astream_events(asked, thread, version="v3")).output) > 0


def test_batch_takes_a_thread_for_each_prompt(chat: SFIChatModel) -> None:
    threads: list[RunnableConfig] = [{"configurable": {"thread_id": uuid.uuid4().hex}} for _ in range(2)]
    answers = chat.batch(["Hi", "Ho"], threads)
    assert [a.response_metadata["session"] for a in answers] == [
        t["configurable"]["thread_id"] for t in threads
    ]


def test_two_prompts_in_one_thread_have_a_session_each(runtime: Runtime, thread: RunnableConfig) -> None:
    router, writer = (
        SFIChatModel(runtime=runtime, max_tokens=2, mode="dense", session_id=name)
        for name in ("router", "writer")
    )
    told: dict[str, list[BaseMessage]] = {"router": [], "writer": []}
    reused = []
    for question in ("Hi", "And then?"):
        for model, history in zip((router, writer), told.values(), strict=True):
            history += [HumanMessage(f"{model.session_id}: {question}")]
            answer = RunnableLambda(model.invoke).invoke(history, thread)
            history += [answer]
            reused.append(_reused(answer))
            assert answer.response_metadata["session"].endswith(f"/{model.session_id}")
    assert reused[0] == 0
    assert min(reused[2:]) > len("writer: Hi") > reused[1]


def test_a_call_inside_a_graph_belongs_to_its_thread(chat: SFIChatModel, thread: RunnableConfig) -> None:
    node = RunnableLambda(lambda prompt: chat.invoke(prompt))
    inner = RunnableLambda(lambda prompt: chat.generate([[HumanMessage(prompt)]]).generations[0][0].message)
    session = thread["configurable"]["thread_id"]
    assert node.invoke("Hi", thread).response_metadata["session"] == session
    assert inner.invoke("Hi", thread).response_metadata["session"] == session


@pytest.mark.parametrize(
    ("constructor", "configurable", "call", "wins"),
    [
        ("made", "thread", "call", "call"),
        ("made", "thread", None, "thread/made"),
        (None, "thread", None, "thread"),
        ("", "thread", None, "thread"),
        ("made", None, None, "made"),
        (None, 17, None, "17"),
        (None, None, None, None),
    ],
)
def test_the_call_wins_then_the_thread_with_the_constructor(
    runtime: Runtime, constructor: str | None, configurable: Any, call: str | None, wins: str | None
) -> None:
    chat = SFIChatModel(runtime=runtime, max_tokens=2, session_id=constructor)
    answer = chat.invoke("Hi", {"configurable": {"thread_id": configurable}}, session_id=call)
    assert answer.response_metadata["session"] == wins
