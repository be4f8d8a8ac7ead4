"""A page that is served while its turns run."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from typing import Any

import pytest

from sfi_agent.errors import SettingError
from sfi_agent.trace import LiveView, Recorder
from sfi_agent.trace.live import rest
from tests.browsing import Browser
from tests.sfi_agent.trace.examples import long, trace


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_only_who_knows_the_address_sees_anything() -> None:
    with LiveView(Recorder()) as view:
        assert view.url.startswith("http://127.0.0.1:")
        assert status(view.url) == 200
        base = view.url.rsplit("/", 2)[0]
        assert [status(f"{base}/"), status(f"{base}/rest"), status(f"{base}/x/rest")] == [404] * 3


def test_a_port_in_use_is_refused() -> None:
    with LiveView(Recorder()) as view:
        port = int(view.url.split(":")[2].partition("/")[0])
        with pytest.raises(SettingError, match=f"port {port} cannot be used"):
            LiveView(Recorder(), port)
    with pytest.raises(SettingError, match="port 70000"):
        LiveView(Recorder(), 70_000)


def test_a_page_is_told_what_it_lacks_alone() -> None:
    two = trace(*long(600, 40).turns * 2)
    whole = rest(two, {})
    assert (whole["turn"], whole["first"], len(whole["labels"])) == (1, 0, 2)
    assert [len(whole["rest"][name]) for name in ("prompt", "tokens", "steps")] == [600, 41, 40]
    have = {"turn": "", "open": "1", "tokens": "40", "steps": "40", "memories": "0", "prompt": "600"}
    more = rest(two, have)["rest"]
    assert [len(more[name]) for name in ("prompt", "tokens", "steps")] == [0, 1, 0]
    assert more["memories"] == whole["rest"]["memories"]
    assert rest(two, {**have, "turn": "0"})["rest"]["tokens"] == whole["rest"]["tokens"]
    assert rest(two, {"turn": "99"})["turn"] == 1
    assert rest(two, {"turn": "-1; x", "tokens": "²"})["turn"] == 1
    assert rest(trace(), {}) == {"turn": None}


def test_the_page_fills_while_a_turn_runs_and_goes_to_the_next_turn(tiny: Any, browser: Browser) -> None:
    recorder, go = Recorder("tiny"), threading.Event()
    shown = "document.querySelectorAll('#answer .t').length"
    with LiveView(recorder) as view, tiny.runtime() as runtime, runtime.observers.heard_by(recorder):
        browser.open(view.url)
        assert browser.ask(shown) == 0
        policy, sampling = tiny.policy(selector="index"), tiny.sampling(60)

        def turns() -> None:
            with runtime.stream(tiny.prompt(70), policy=policy, sampling=sampling, session="s") as stream:
                for number, _ in enumerate(stream):
                    if number == 40:
                        go.wait(30)
            runtime.generate(tiny.prompt(90), policy=policy, sampling=tiny.sampling(20), session="s")

        thread = threading.Thread(target=turns)
        thread.start()
        browser.until(f"{shown} > 15 && {shown} <= 41")
        assert "running" in browser.ask("document.querySelector('#figures').textContent")
        assert browser.ask("document.querySelector('#live').textContent") == "live"
        go.set()
        browser.until(f"{shown} === 20 && document.querySelectorAll('#turns option').length === 2")
        thread.join()
        assert "length" in browser.until("document.querySelector('#figures').textContent")
        assert "tiny" in browser.ask("document.querySelector('#about').textContent")
        assert browser.problems() == []
    browser.until("document.querySelector('#live').textContent === 'disconnected'")
    browser.driver.get("about:blank")
