"""Brokers and runtimes that die in the middle of turns."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt import publish, subscribe

from sfi_agent import Runtime, TurnResult
from sfi_agent.chat import Chat, ChatService, LocalChat
from sfi_agent.errors import ServiceError, SettingError, TurnTimeoutError
from sfi_agent.policy import Sampling
from sfi_agent.tools import Ask
from sfi_mqtt import BusRuntime, BusService, Limits
from sfi_mqtt.messages import encode_status
from tests.integrations.sfi_mqtt.brokers import PATIENCE, QUICK, Broker, Embedded, free_port, wait_until
from tests.integrations.sfi_mqtt.serving import NAME, counting_runtime, numbers, tiny_runtime

ROOT = Path(__file__).parents[3]
SERVER = """
import sys, threading
from sfi_agent import Runtime
from sfi_mqtt import BusService
from tests.integrations.sfi_mqtt.brokers import QUICK
from tests.integrations.sfi_mqtt.serving import NAME, tiny_runtime
service = BusService(sys.argv[1], tiny_runtime(sys.argv[2]), name=NAME, backoff=QUICK)
print("serving", flush=True)
threading.Event().wait()
"""


def chat(*texts: str, session: str | None = None) -> Chat:
    """Messages of the user and the assistant in turns."""
    roles = ("user", "assistant") * len(texts)
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    return Chat(messages, sampling=Sampling(max_new_tokens=20_000), session=session)


def whole(service: ChatService, chat: Chat) -> str:
    with service.open(chat) as stream:
        for _ in stream:
            pass
    return stream.result.text


class Asker:
    """Runs one turn and keeps what comes of it."""

    def __init__(self, client: ChatService, chat: Chat) -> None:
        self._client, self._chat = client, chat
        self.pieces: list[str] = []

    def run(self) -> TurnResult:
        with self._client.open(self._chat) as stream:
            for events in stream:
                self.pieces.extend(event.text for event in events)
        return stream.result


@pytest.fixture
def client(broker: Broker) -> Iterator[BusRuntime]:
    with BusRuntime(broker.url, NAME, patience=PATIENCE, backoff=QUICK) as client:
        yield client


@contextmanager
def serving(broker: Broker, store: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", SERVER, broker.url, str(store)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        assert process.stdout.readline() == "serving\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_broker_killed_in_the_middle_of_ten_turns(
    broker: Broker, serve: Callable[..., BusService], client: BusRuntime, runtime: Runtime
) -> None:
    """Every answer comes once and whole, and no turn runs twice."""
    serve(Limits(together=10))
    before = runtime.recorder.turns
    askers = {number: Asker(client, chat(f"Count to {number}.")) for number in range(100, 110)}
    with ThreadPoolExecutor(10) as pool:
        running = {number: pool.submit(asker.run) for number, asker in askers.items()}
        wait_until(lambda: all(asker.pieces for asker in askers.values()))
        broker.kill()
        assert not any(future.done() for future in running.values())
        broker.start()
        for number, asker in askers.items():
            assert running[number].result(PATIENCE).text == f"{numbers(number)} ."
            assert "".join(asker.pieces) == f"{numbers(number)} ."
    assert runtime.recorder.turns == before + 10


def test_a_killed_runtime_is_missed_and_its_session_goes_on(
    broker: Broker, client: BusRuntime, tmp_path: Path
) -> None:
    """The answer that was under way comes whole from the next process, and is what one process gives."""
    short = replace(chat("Hello", session="s"), sampling=Sampling(max_new_tokens=20))
    with serving(broker, tmp_path / "store") as process:
        first = Asker(client, short).run()
        wait_until(lambda: all(line.stored for line in client.sessions()))
        long = replace(chat("Hello", first.text, "Go on"), session="s", sampling=Sampling(max_new_tokens=400))
        second = Asker(client, long)
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(second.run)
            wait_until(lambda: len(second.pieces) > 5)
            process.send_signal(signal.SIGKILL)
            wait_until(lambda: client.status.status == "offline")
            assert client.status.time is None, "the last will, not a goodbye"
            assert not running.done()
            with serving(broker, tmp_path / "store"):
                result = running.result(PATIENCE)
                assert client.trouble == ""
    with tiny_runtime(None) as alone:
        expected = [whole(LocalChat(alone), asked) for asked in (short, long)]
    assert expected == [first.text, result.text]
    assert "".join(second.pieces) == result.text
    assert result.reused_tokens > first.prompt_tokens


def test_a_runtime_is_shown_online_whatever_its_predecessor_says_late(
    broker: Broker, serve: Callable[..., BusService], client: BusRuntime
) -> None:
    """A host that lost its power: its last will comes when the broker misses it, a minute later."""
    serve()
    where = {"hostname": "127.0.0.1", "port": broker.port}
    late = encode_status("offline", None, 0, {"instance": "predecessor"})
    publish.single(f"sfi/{NAME}/status", late, 1, retain=True, **where)
    wait_until(lambda: b'"online"' in subscribe.simple(f"sfi/{NAME}/status", **where).payload)
    wait_until(lambda: client.trouble == "")
    assert whole(client, chat("Count to 3.")) == f"{numbers(3)} ."


def test_two_runtimes_of_one_name_are_told_once_each(
    broker: Broker, serve: Callable[..., BusService], caplog: pytest.LogCaptureFixture
) -> None:
    serve()
    with (
        counting_runtime() as second,
        BusService(broker.url, second, name=NAME, backoff=QUICK) as service,
        BusRuntime(broker.url, NAME, patience=PATIENCE, backoff=QUICK) as client,
    ):
        wait_until(lambda: service.connected and caplog.text.count("another runtime answers on") == 2)
        assert whole(client, chat("Count to 3.")) == f"{numbers(3)} ."
    assert caplog.text.count(f"another runtime answers on sfi/{NAME}/requests as well") == 2


def test_a_broker_that_is_back_is_told(
    broker: Broker, serve: Callable[..., BusService], caplog: pytest.LogCaptureFixture
) -> None:
    serve()
    broker.kill()
    wait_until(lambda: "trying again" in caplog.text)
    broker.start()
    wait_until(lambda: f"{broker.url}: connected again" in caplog.messages)


def test_what_is_larger_than_the_broker_takes_fails_alone(
    start_broker: Callable[..., Broker], runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    """A broker ends the connection of who sends it, and that of who sends it again."""
    broker = start_broker("allow_anonymous true", "max_packet_size 5000")
    with (
        BusService(broker.url, runtime, name=NAME, grace=0.2, backoff=QUICK),
        BusRuntime(broker.url, NAME, patience=PATIENCE, backoff=QUICK) as client,
    ):
        with pytest.raises(
            ServiceError, match="more than the broker takes, 5000 with its headers; send less"
        ):
            whole(client, chat("x" * 5_000))
        with pytest.raises(ServiceError, match="is more than the broker takes"):
            whole(client, chat("Count to 400."))
        assert whole(client, chat("Count to 3.")) == f"{numbers(3)} ."
    assert "trying again" not in caplog.text


@pytest.mark.parametrize("timeout", [5e9, 1e300])
def test_a_turn_may_have_more_time_than_a_message_can_tell(
    serve: Callable[..., BusService], client: BusRuntime, timeout: float
) -> None:
    serve()
    assert whole(client, replace(chat("Count to 3."), timeout=timeout)) == f"{numbers(3)} ."


def test_what_cannot_be_written_is_told_to_who_asks_and_all_others_go_on(
    serve: Callable[..., BusService], client: BusRuntime
) -> None:
    serve()
    deep: dict[str, Any] = {}
    for _ in range(5_000):
        deep = {"a": deep}
    for held in (object(), deep):
        with pytest.raises(SettingError, match="request: JSON cannot hold it"):
            whole(client, replace(chat("Count to 3."), policies=({"budget": held},)))
    with pytest.raises(SettingError, match=r"messages.0.content: Input should be a valid string"):
        client.encode([{"role": "user", "content": object()}], Ask())
    for id in ("", "x" * 201, "\ud800"):
        with pytest.raises(SettingError, match="session: "):
            client.drop_session(id)
    assert whole(client, chat("Count to 3.")) == f"{numbers(3)} ."


def test_a_runtime_that_stays_away_is_told_after_the_clients_patience(broker: Broker) -> None:
    with (
        BusRuntime(broker.url, "nobody", patience=0.3) as client,
        pytest.raises(ServiceError, match="no runtime 'nobody' is online") as raised,
    ):
        whole(client, chat("Hello"))
    assert str(raised.value).endswith(f"; start one: sfi-agent bus --name nobody --broker {broker.url}")


def test_a_runtime_that_ended_with_its_broker_is_told_after_the_clients_patience(runtime: Runtime) -> None:
    """The next broker there knows neither it nor its status; what the client heard from the first is old."""
    broker = Embedded()
    broker.start()
    try:
        with (
            ThreadPoolExecutor(1) as pool,
            BusRuntime(broker.url, NAME, patience=2.0, backoff=QUICK) as client,
        ):
            with BusService(broker.url, runtime, name=NAME, grace=0.2, backoff=QUICK):
                assert whole(client, chat("Count to 3.")) == "1 2 3 ."
                broker.kill()
            wait_until(lambda: client.trouble != "")
            broker.start()
            asked = pool.submit(whole, client, chat("Hello"))
            with pytest.raises(ServiceError, match=f"no runtime '{NAME}' is online"):
                asked.result(PATIENCE)
    finally:
        broker.kill()


def test_closing_a_client_fails_what_is_not_answered() -> None:
    """At once, not after the client's patience."""
    with (
        ThreadPoolExecutor(2) as pool,
        BusRuntime(f"mqtt://127.0.0.1:{free_port()}", NAME, patience=PATIENCE * 4) as client,
    ):
        asked = [pool.submit(whole, client, chat("Hello")), pool.submit(lambda: client.status)]
        client.close()
        for each in asked:
            with pytest.raises(ServiceError, match="this client was closed"):
                each.result(PATIENCE)


def test_a_broker_that_stays_away_is_told_after_the_clients_patience() -> None:
    port = free_port()
    with (
        BusRuntime(f"mqtt://127.0.0.1:{port}", NAME, patience=0.3) as client,
        pytest.raises(ServiceError, match=f"mqtt://127.0.0.1:{port}: .*refused"),
    ):
        whole(client, chat("Hello"))


def test_a_deadline_counts_where_nobody_answers() -> None:
    """And not the client's patience, which is longer."""
    waited = replace(chat("Hello"), timeout=0.2)
    with (
        BusRuntime(f"mqtt://127.0.0.1:{free_port()}", NAME, patience=PATIENCE * 4) as client,
        pytest.raises(TurnTimeoutError, match=r"deadline unanswered: mqtt://127.0.0.1:.*refused"),
    ):
        whole(client, waited)
