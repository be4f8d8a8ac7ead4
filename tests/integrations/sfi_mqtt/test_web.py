"""``sfi-agent tail --web``: a runtime's turns on a page, over a broker."""

from __future__ import annotations

import signal
import subprocess
from datetime import UTC, datetime

from sfi_agent.policy import Policy, Sampling
from sfi_agent.trace import Recorder
from sfi_mqtt import BusService
from sfi_mqtt.heard import Heard
from sfi_mqtt.messages import encode
from sfi_mqtt.outbox import Pending
from sfi_mqtt.tail import Shown
from tests.browsing import Browser
from tests.integrations.sfi_mqtt.brokers import PATIENCE, QUICK, Broker
from tests.integrations.sfi_mqtt.examples import every_event
from tests.integrations.sfi_mqtt.serving import tiny_runtime
from tests.integrations.sfi_mqtt.test_commands import command, refused

TOKENS = "document.querySelectorAll('#answer .t')"


def address(process: subprocess.Popen[str]) -> str:
    """Where the page is, as the command tells it."""
    assert process.stderr
    line = process.stderr.readline()
    assert line.startswith("watch at http://127.0.0.1:"), line
    return line.split()[-1]


def test_the_page_shows_a_turn_that_came_over_the_broker(broker: Broker, browser: Browser) -> None:
    policy = Policy(selector="recent", budget=8, recent=4, sink=1, dense_below=0)
    sampling = Sampling(max_new_tokens=40, ignore_eos=True)
    with (
        tiny_runtime(None) as runtime,
        BusService(broker.url, runtime, name="desk", details=True, backoff=QUICK),
        command("tail", "--broker", broker.url, "--name", "desk", "--web") as process,
    ):
        browser.open(address(process))
        browser.until("document.querySelector('#live').textContent === 'live'")
        prompt = runtime.encode("one two three four five six seven eight nine ten", raw=True) * 3
        # The subscription may come after a turn: what matters is that a later one is shown.
        while not browser.ask(f"{TOKENS}.length"):
            result = runtime.generate(prompt, policy=policy, sampling=sampling, session="s")
        browser.until(
            f"{TOKENS}.length === 40 && document.querySelector('#figures').textContent.includes('length')"
        )
        for mark, count in [("fast", result.fast_steps), ("slow", result.slow_steps), ("prompt", 1)]:
            assert browser.ask(f"document.querySelectorAll('#answer .{mark}').length") == count
        assert browser.problems() == []
        browser.driver.get("about:blank")
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0


def test_a_port_that_cannot_be_had_is_refused() -> None:
    told = refused("tail", "--broker", "mqtt://127.0.0.1:1", "--web", "--port", "70000")
    assert "port 70000 cannot be used" in told


def test_what_is_heard_twice_or_cannot_be_read_is_passed_over() -> None:
    recorder = Recorder()
    heard = Heard(recorder)
    time = datetime(2026, 5, 4, 9, 30, tzinfo=UTC)
    sent = [encode(Pending(event, number, time), 0).decode() for number, event in enumerate(every_event())]
    for payload in [*sent, *sent, "", "[]", "\ufffd", '{"kind": "steps_decoded"}']:
        heard.take(Shown("desk", payload, ""))
    (turn,) = recorder.trace.turns
    assert (turn.runtime, len(turn.steps), len(turn.tokens), len(turn.memories)) == ("desk", 1, 1, 1)
    assert turn.finish_reason == "text"
