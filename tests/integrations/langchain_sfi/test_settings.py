"""The constructor's settings and those of a call: what they do, and what a wrong one says."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest

from langchain_sfi import SFIChatModel
from sfi_agent import Policy, Runtime
from sfi_agent.chat import ChatService
from sfi_agent.errors import SettingError, TurnTimeoutError, UnknownNameError
from sfi_agent.registry import Registry

REGISTRY = Registry()


def test_langchains_usual_names(runtime: Runtime) -> None:
    chat = SFIChatModel(
        model="some-model", temperature=0.5, max_tokens=7, timeout=60, stop=["x"], max_retries=2,
        streaming=True, top_p=0.9, top_k=5, repetition_penalty=1.1, seed=3,
    )  # fmt: skip
    call = chat._call(None, {})
    assert (call.model, call.timeout) == ("some-model", 60.0)
    sampling = call.sampling
    assert (sampling.temperature, sampling.max_new_tokens, sampling.stop) == (0.5, 7, ("x",))
    assert (sampling.top_p, sampling.top_k, sampling.repetition_penalty, sampling.seed) == (0.9, 5, 1.1, 3)


@pytest.mark.parametrize("mode", ["dense", "sfi", "verified"])
def test_mode_for_one_call(chat: SFIChatModel, mode: str) -> None:
    assert chat.invoke("Hi", mode=mode).response_metadata["mode"] == mode
    assert chat.bind(mode=mode).invoke("Hi").response_metadata["mode"] == mode


def test_sampling_for_one_call(chat: SFIChatModel) -> None:
    greedy = chat.invoke("Hi").content
    drawn = {chat.invoke("Hi", temperature=2.0, seed=seed).content for seed in range(4)}
    assert len(drawn) > 1
    assert chat.invoke("Hi", temperature=2.0, seed=1).content in drawn
    assert chat.invoke("Hi", temperature=2.0, seed=1, top_k=1).content == greedy
    assert chat.invoke("Hi", temperature=2.0, seed=1, top_p=1e-6).content == greedy
    assert chat.invoke("Hi", repetition_penalty=5.0).content != greedy


def test_max_tokens_for_one_call(chat: SFIChatModel) -> None:
    usage = chat.invoke("Hi", max_tokens=3).usage_metadata
    assert usage is not None
    assert usage["output_tokens"] == 3


def test_a_policy_is_laid_over_in_order() -> None:
    base = Policy(budget=64, sink=2)
    chat = SFIChatModel(policy={"budget": 0.5}, mode="verified")
    policy = chat._call(None, {}).chat([]).policy(base, REGISTRY)
    assert (policy.budget, policy.sink, policy.mode) == (0.5, 2, "verified")
    policy = chat._call(None, {"policy": {"sink": 8}, "budget": 32}).chat([]).policy(base, REGISTRY)
    assert (policy.budget, policy.sink, policy.mode) == (32, 8, "verified")
    whole = Policy(mode="dense", budget=16)
    assert chat._call(None, {"policy": whole}).chat([]).policy(base, REGISTRY) == whole
    named = chat._call(None, {"policy": "exact", "budget": 48}).chat([]).policy(base, REGISTRY)
    assert named == REGISTRY.policy("exact").but(budget=48)
    with pytest.raises(SettingError, match="balanced, exact, fast"):
        chat._call(None, {"policy": "exakt"}).chat([]).policy(base, REGISTRY)
    assert (
        chat._call(None, {"policy": whole, "selector": "recent"}).chat([]).policy(base, REGISTRY).selector
        == "recent"
    )


def test_progress_of_the_prefill_is_told(chat: SFIChatModel, runtime: Runtime) -> None:
    told: list[tuple[int, int]] = []
    answer = chat.invoke(
        "word " * 100, policy={"prefill_chunk": 128}, on_progress=lambda *at: told.append(at)
    )
    assert answer.usage_metadata is not None
    total = answer.usage_metadata["input_tokens"]
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert len(told) >= total // 128
    assert told[-1] == (total, total)


def test_what_langchain_hands_to_every_model_is_let_through(chat: SFIChatModel) -> None:
    answer = chat.invoke("Hi", stream=False, stream_usage=True, ls_structured_output_format=None)
    assert answer.content == chat.invoke("Hi").content


def test_an_unknown_setting_lists_the_known(chat: SFIChatModel) -> None:
    with pytest.raises(UnknownNameError, match=r"'temprature'; known: .*max_tokens.*mean 'temperature'"):
        chat.invoke("Hi", temprature=1.0)
    with pytest.raises(UnknownNameError, match="'toolz'"):
        chat.invoke("Hi", toolz=[])
    with pytest.raises(UnknownNameError, match=r"'modle'; known: .*Did you mean 'mode"):
        SFIChatModel(modle="smollm2-135m")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"temperature": -1}, "temperature: .* 0 .*given -1"),
        ({"temperature": "hot"}, "temperature: .*number.*'hot'"),
        ({"max_tokens": 0}, "max_tokens: .* 1 .*given 0"),
        ({"top_p": 1.5}, "top_p: .*given 1.5"),
        ({"stop": [""]}, "stop: .*empty"),
        ({"timeout": 0}, "timeout: .*above 0"),
        ({"mode": "fast"}, "mode: must be one of dense, sfi, verified"),
        ({"budget": 0}, "budget: .*given 0"),
        ({"budget": 1.5}, "budget: .*given 1.5"),
        ({"policy": {"budgt": 3}}, "'budgt'.*Did you mean 'budget'"),
        ({"policy": 3}, "policy: must be a Policy, a policy's name or a dictionary"),
    ],
)
def test_a_bad_value_is_told_before_a_model_is_loaded(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said) as caught:
        SFIChatModel(model="/no/such/model", **settings)
    assert "\n" not in str(caught.value)
    if "stop" not in settings:
        with pytest.raises(SettingError, match=said):
            SFIChatModel(model="/no/such/model").invoke("Hi", **settings)


def test_a_policys_name_is_checked_before_a_model_is_loaded(runtime: Runtime) -> None:
    for given in ({"model": "/no/such/model"}, {"runtime": runtime}):
        with pytest.raises(UnknownNameError, match="'exakt'; known: balanced, exact, fast"):
            SFIChatModel(**given, policy="exakt")
        assert SFIChatModel(**given, policy="exact")
    far = Mock(spec=ChatService)
    far.name = "far"
    assert SFIChatModel(runtime=far, policy="known-there").policy == "known-there"


def test_timeout_raises_after_the_text_that_was_in_time(chat: SFIChatModel) -> None:
    with pytest.raises(TurnTimeoutError, match="passed its deadline"):
        chat.invoke("Hi", timeout=0.05, max_tokens=3000)
    texts = []
    with pytest.raises(TurnTimeoutError):
        texts.extend(chunk.text for chunk in chat.stream("Hi", timeout=0.3, max_tokens=3000))
    assert 0 < len("".join(texts)) < 3000
