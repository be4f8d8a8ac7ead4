"""One call: what comes back, whole, streamed and in batches."""

from __future__ import annotations

from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.messages import AIMessageChunk, HumanMessage, SystemMessage, trim_messages

from langchain_sfi import SFIChatModel
from sfi_agent import Runtime

PROMPTS = ["Tell me about rivers.", "What is a fjord?", "Count to ten."]
REPORTED = {
    "finish_reason", "mode", "slow_steps", "fast_steps", "drafted", "accepted", "kv_read_fraction",
    "prefill_seconds", "first_token_seconds", "decode_tokens_per_second", "session",
}  # fmt: skip


def test_invoke_answers_as_the_runtime_does(chat: SFIChatModel, runtime: Runtime) -> None:
    prompt = runtime.encode([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}])
    expected = runtime.generate(prompt, sampling=chat._call(None, {}).sampling)
    answer = chat.invoke([SystemMessage("Be brief."), HumanMessage("Hi")])
    assert answer.content == expected.text
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["input_tokens"] == len(prompt)
    assert answer.usage_metadata["output_tokens"] == 24
    assert answer.usage_metadata["total_tokens"] == len(prompt) + 24


def test_metadata_names_the_model_and_counts_the_steps(chat: SFIChatModel, runtime: Runtime) -> None:
    metadata = chat.invoke("Hi", mode="sfi").response_metadata
    assert metadata.keys() >= REPORTED
    assert metadata["model_name"] == runtime.name
    assert metadata["finish_reason"] == "length"
    assert metadata["mode"] == "sfi"
    assert metadata["slow_steps"] + metadata["fast_steps"] >= 23


def test_stream_is_invoke_in_pieces(chat: SFIChatModel) -> None:
    chunks = list(chat.stream(PROMPTS[0]))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    answer = chat.invoke(PROMPTS[0])
    assert len(chunks) > 5
    assert whole.content == answer.content
    assert whole.usage_metadata == answer.usage_metadata
    assert whole.response_metadata.keys() == answer.response_metadata.keys()


def test_only_the_last_chunk_has_usage_and_metadata(chat: SFIChatModel) -> None:
    *texts, last = chat.stream(PROMPTS[0])
    assert all(isinstance(chunk, AIMessageChunk) for chunk in [*texts, last])
    assert last.chunk_position == "last"
    assert last.usage_metadata
    assert "model_name" in last.response_metadata
    for chunk in texts:
        assert chunk.content
        assert not chunk.usage_metadata
        assert not chunk.response_metadata


def test_streaming_makes_invoke_stream(runtime: Runtime, chat: SFIChatModel) -> None:
    streamed = SFIChatModel(runtime=runtime, max_tokens=24, streaming=True).invoke(PROMPTS[0])
    assert streamed.content == chat.invoke(PROMPTS[0]).content
    assert streamed.response_metadata["finish_reason"] == "length"


def test_batch_keeps_the_order(chat: SFIChatModel) -> None:
    answers = [chat.invoke(prompt).content for prompt in PROMPTS]
    assert len(set(answers)) == len(PROMPTS)
    assert [answer.content for answer in chat.batch(PROMPTS)] == answers


def test_usage_reaches_langchains_counter(chat: SFIChatModel, runtime: Runtime) -> None:
    counter = UsageMetadataCallbackHandler()
    answer = chat.invoke("Hi", config={"callbacks": [counter]})
    assert counter.usage_metadata == {runtime.name: answer.usage_metadata}


def test_stop_cuts_the_answer_before_it(chat: SFIChatModel, runtime: Runtime) -> None:
    whole = chat.invoke(PROMPTS[0]).text
    stop = whole[8:10]
    cut = chat.invoke(PROMPTS[0], stop=[stop])
    assert cut.text == whole[: whole.index(stop)]
    assert cut.response_metadata["finish_reason"] == "stop"
    assert "".join(chunk.text for chunk in chat.stream(PROMPTS[0], stop=[stop])) == cut.text
    assert SFIChatModel(runtime=runtime, stop=[stop]).invoke(PROMPTS[0]).text == cut.text


def test_a_stop_of_the_call_takes_the_place_of_the_constructors(runtime: Runtime, chat: SFIChatModel) -> None:
    whole = chat.invoke(PROMPTS[0]).text
    early, late = whole[3:5], whole[12:15]
    stopped = SFIChatModel(runtime=runtime, max_tokens=24, stop=[early])
    assert stopped.invoke(PROMPTS[0], stop=[late]).text == whole[: whole.index(late)]


def test_langchains_cache_serves_every_thread(runtime: Runtime, recorder) -> None:
    chat = SFIChatModel(runtime=runtime, max_tokens=8, cache=InMemoryCache())
    first = chat.invoke("Hi", session_id="cached-1")
    turns = len(recorder.events)
    again = chat.invoke("Hi", session_id="cached-2")
    assert again.content == first.content
    assert len(recorder.events) == turns
    assert chat.invoke("Hi", max_tokens=4).content != first.content


def test_tokens_are_counted_with_the_models_tokenizer(chat: SFIChatModel) -> None:
    messages = [SystemMessage("Be brief."), HumanMessage("Hi")]
    usage = chat.invoke(messages).usage_metadata
    assert usage is not None
    assert chat.get_num_tokens_from_messages(messages) == usage["input_tokens"]
    assert chat.get_num_tokens("Hello") == 5
    assert chat.get_num_tokens("") == 0
    room = chat.get_num_tokens_from_messages(messages[1:])
    kept = trim_messages(messages, max_tokens=room, token_counter=chat, strategy="last")
    assert [message.content for message in kept] == ["Hi"]
