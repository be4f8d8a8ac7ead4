"""One runtime for each (model, device, dtype), loaded once and late.

``Runtime.load`` is replaced here by one that only counts: what is tested is when it is called.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from langchain_sfi import SFIChatModel, runtimes
from sfi_agent import Runtime
from sfi_agent.errors import ModelError, SettingError


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    loaded: list[tuple[str, str, str]] = []

    def load(model: str, *, device: str, dtype: str, store: str | None) -> Any:
        loaded.append((model, device, dtype))
        time.sleep(0.05)  # long enough for the other threads to arrive
        if model == "broken":
            raise ModelError("no such model")
        return SimpleNamespace(name=model, close=lambda: loaded.append(("closed", device, dtype)))

    monkeypatch.setattr(Runtime, "load", load)
    monkeypatch.setattr(runtimes, "_slots", {})
    return loaded


def test_a_chat_model_loads_nothing_when_made(loads: list[tuple[str, str, str]]) -> None:
    SFIChatModel(model="a")
    assert loads == []


def test_threads_that_ask_at_once_share_one_load(loads: list[tuple[str, str, str]]) -> None:
    chats = [SFIChatModel(model="a", device="cpu") for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda chat: chat._runtime("a"), chats))
    assert loads == [("a", "cpu", "auto")]
    assert all(runtime is found[0] for runtime in found)


def test_each_device_and_dtype_has_its_own(loads: list[tuple[str, str, str]]) -> None:
    for settings in ({}, {"dtype": "float32"}, {"device": "cpu"}, {"dtype": "float32"}):
        SFIChatModel(model="a", **settings)._runtime("a")
    assert loads == [("a", "auto", "auto"), ("a", "auto", "float32"), ("a", "cpu", "auto")]


def test_each_store_has_its_own(loads: list[tuple[str, str, str]]) -> None:
    for store in ("one", "two", "one", None):
        SFIChatModel(model="a", store=store)._runtime("a")
    assert len(loads) == 3


def test_a_call_may_name_another_model(loads: list[tuple[str, str, str]], runtime: Runtime) -> None:
    chat = SFIChatModel(runtime=runtime)
    assert chat.model_name == runtime.name
    assert chat._runtime(chat.model_name) is runtime
    assert chat._runtime("b") is not runtime
    assert [model for model, _, _ in loads] == ["b"]


def test_a_runtime_is_loaded_already_and_has_a_name(runtime: Runtime) -> None:
    for name, given in (("store", "sessions"), ("device", "cuda"), ("dtype", "float32")):
        with pytest.raises(SettingError, match=f"{name}: a runtime is loaded already; .*given '{given}'"):
            SFIChatModel(runtime=runtime, **{name: given})
    for chat in (SFIChatModel(runtime=runtime, model="x"), SFIChatModel(runtime=runtime, model_name="x")):
        assert chat.model_name == runtime.name
    same = {name: getattr(chat, name) for name in SFIChatModel.model_fields}  # as LangChain copies a model
    assert SFIChatModel(**same).runtime is runtime


def test_a_failed_load_is_tried_again(loads: list[tuple[str, str, str]]) -> None:
    for _ in range(2):
        with pytest.raises(ModelError, match="no such model"):
            SFIChatModel(model="broken").invoke("Hi")
    assert len(loads) == 2


def test_close_runtimes_closes_and_forgets(loads: list[tuple[str, str, str]]) -> None:
    runtimes.shared_runtime("a")
    runtimes.close_runtimes()
    runtimes.shared_runtime("a")
    assert [model for model, _, _ in loads] == ["a", "closed", "a"]


class _ClosedBefore:
    """The lock of a slot, whose first taker finds that another thread was faster and closed all runtimes."""

    def __init__(self) -> None:
        self._lock, self._untaken = threading.Lock(), True

    def __enter__(self) -> None:
        if self._untaken:
            self._untaken = False
            runtimes.close_runtimes()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


@pytest.mark.parametrize("loaded", [True, False])
def test_a_slot_that_is_closed_before_its_lock_is_taken_gives_no_runtime(
    loads: list[tuple[str, str, str]], loaded: bool
) -> None:
    if loaded:
        runtimes.shared_runtime("a")
    slot = runtimes._slots.setdefault(("a", "auto", "auto", None), runtimes._Slot())
    slot.lock = _ClosedBefore()  # type: ignore[assignment]
    found = runtimes.shared_runtime("a")
    assert found is not slot.runtime
    assert found is runtimes.shared_runtime("a")
    assert [model for model, _, _ in loads] == [*(["a", "closed"] if loaded else []), "a"]


def test_a_runtime_that_fails_to_close_leaves_no_other_open(loads: list[tuple[str, str, str]]) -> None:
    def fail() -> None:
        raise OSError("no space left")

    for model in ("a", "b", "c"):
        runtimes.shared_runtime(model)
    runtimes.shared_runtime("b").close = fail
    with pytest.raises(OSError, match="no space left"):
        runtimes.close_runtimes()
    assert [model for model, _, _ in loads] == ["a", "b", "c", "closed", "closed"]
