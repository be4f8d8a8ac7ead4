"""Calls from threads and tasks at once, and calls that are given up."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from langchain_sfi import SFIChatModel
from langchain_sfi.turns import arun_turn
from sfi_agent.errors import TurnTimeoutError, UnknownNameError
from sfi_agent.events import TurnFinished

PROMPTS = [f"Question {number}: what is {number} times {number}?" for number in range(6)]
LONG = 3000


@pytest.fixture
def answers(chat: SFIChatModel) -> list[str]:
    return [chat.invoke(prompt).text for prompt in PROMPTS]


def test_threads_get_the_answers_of_one_after_another(chat: SFIChatModel, answers: list[str]) -> None:
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        assert list(pool.map(lambda prompt: chat.invoke(prompt).text, PROMPTS)) == answers


async def test_tasks_get_the_answers_of_one_after_another(chat: SFIChatModel, answers: list[str]) -> None:
    got = await asyncio.gather(*(chat.ainvoke(prompt) for prompt in PROMPTS))
    assert [answer.text for answer in got] == answers
    assert [answer.text for answer in await chat.abatch(PROMPTS)] == answers


async def test_astream_is_stream(chat: SFIChatModel) -> None:
    chunks = [chunk async for chunk in chat.astream(PROMPTS[0])]
    expected = list(chat.stream(PROMPTS[0]))
    assert [chunk.content for chunk in chunks] == [chunk.content for chunk in expected]
    assert chunks[-1].usage_metadata == expected[-1].usage_metadata
    assert chunks[-1].chunk_position == "last"


async def test_two_turns_of_one_session_wait_for_each_other(chat: SFIChatModel, answers: list[str]) -> None:
    got = await asyncio.gather(*(chat.ainvoke(prompt, session_id="shared") for prompt in PROMPTS))
    assert [answer.text for answer in got] == answers


async def test_the_loop_goes_on_while_a_turn_runs(chat: SFIChatModel) -> None:
    turn = asyncio.create_task(chat.ainvoke("Hi", max_tokens=200))
    ticks = 0
    while not turn.done():
        await asyncio.sleep(0.001)
        ticks += 1
    assert ticks > 5


async def test_a_cancelled_task_ends_its_turn(chat: SFIChatModel, recorder) -> None:
    started = asyncio.Event()

    async def read() -> None:
        async for _ in chat.astream("Hi", max_tokens=LONG, session_id="cancelled-stream"):
            started.set()

    task = asyncio.create_task(read())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await _finished(recorder, "cancelled-stream")).completion_tokens < LONG


async def test_a_cancelled_ainvoke_ends_its_turn(chat: SFIChatModel, recorder) -> None:
    begun, loop = asyncio.Event(), asyncio.get_running_loop()

    def on_progress(*_: int) -> None:
        loop.call_soon_threadsafe(begun.set)

    asked = chat.ainvoke("Hi", max_tokens=LONG, session_id="cancelled-call", on_progress=on_progress)
    task = asyncio.create_task(asked)
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await _finished(recorder, "cancelled-call")).completion_tokens < LONG


@pytest.mark.parametrize("how", ["ainvoke", "astream"])
async def test_a_cancelled_prefill_stops_at_the_next_chunk(chat: SFIChatModel, recorder, how: str) -> None:
    """The first chunk's callback stands still until the task is gone: not one more chunk is read."""
    reached, opened, done = asyncio.Event(), threading.Event(), []
    loop, prompt = asyncio.get_running_loop(), f"{how} " * 100

    def on_progress(read: int, total: int) -> None:
        done.append(read)
        loop.call_soon_threadsafe(reached.set)
        assert opened.wait(10)

    settings = {"session_id": f"prefill-{how}", "policy": {"prefill_chunk": 16}, "on_progress": on_progress}
    stream = chat.astream(prompt, **settings)
    task = asyncio.create_task(chat.ainvoke(prompt, **settings) if how == "ainvoke" else anext(stream))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await stream.aclose()
    opened.set()
    assert (await _finished(recorder, f"prefill-{how}")).reason == "cancelled"
    assert done == [16]
    again = await chat.ainvoke(prompt, session_id=f"prefill-{how}", max_tokens=8)
    assert again.text == (await chat.ainvoke(prompt, max_tokens=8)).text
    assert again.usage_metadata["input_token_details"]["cache_read"] == 16


async def test_leaving_a_stream_ends_its_turn(chat: SFIChatModel, recorder) -> None:
    for _ in chat.stream("Hi", max_tokens=LONG, session_id="left"):
        break
    assert (await _finished(recorder, "left")).completion_tokens < LONG
    stream = chat.astream("Hi", max_tokens=LONG, session_id="left-async")
    await anext(stream)
    await stream.aclose()
    assert (await _finished(recorder, "left-async")).completion_tokens < LONG


async def test_a_session_goes_on_after_a_cancelled_turn(chat: SFIChatModel, answers: list[str]) -> None:
    stream = chat.astream(PROMPTS[0], max_tokens=LONG, session_id="goes-on")
    await anext(stream)
    await stream.aclose()
    assert (await chat.ainvoke(PROMPTS[0], session_id="goes-on")).text == answers[0]


async def test_errors_reach_the_task_that_asked(chat: SFIChatModel) -> None:
    with pytest.raises(UnknownNameError, match="temprature"):
        await chat.ainvoke("Hi", temprature=1)
    with pytest.raises(UnknownNameError, match="selector 'nosuch'"):
        await chat.ainvoke("Hi", selector="nosuch")
    with pytest.raises(TurnTimeoutError, match="more time or ask for fewer tokens") as error:
        await chat.ainvoke("Hi", timeout=0.05, max_tokens=LONG)
    assert "max_new_tokens" not in str(error.value), "LangChain's users call it max_tokens"


async def test_a_turn_cancelled_while_it_opens_is_closed() -> None:
    """A stub of a TurnStream: only it can be held exactly where the turn is being opened."""
    opening, opened, closed = threading.Event(), threading.Event(), threading.Event()
    begun: list[Turn] = []

    class Turn:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.close()

        def __iter__(self):
            begun.append(self)
            return iter(())

        result = None

        def close(self) -> None:
            closed.set()

    def open_turn():
        opening.set()
        opened.wait(10)
        return Turn()

    task = asyncio.create_task(anext(arun_turn(open_turn)))
    await asyncio.to_thread(opening.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    opened.set()
    assert await asyncio.to_thread(closed.wait, 10)
    assert not begun


async def _finished(recorder, session: str) -> TurnFinished:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for event in recorder.events:
            if isinstance(event, TurnFinished) and event.session == session:
                return event
        await asyncio.sleep(0.01)
    raise AssertionError(f"no turn of session {session!r} has ended")
