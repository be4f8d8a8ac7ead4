"""No broker, or a bad one: the runtime does not notice."""

from __future__ import annotations

import gc
import json
import logging
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sfi_agent.chat import Chat, LocalChat
from sfi_agent.errors import ServiceError
from sfi_agent.policy import Sampling
from sfi_mqtt import BusService, MqttEvents
from sfi_mqtt.asking import Asked, Asking
from sfi_mqtt.broker import Broker
from sfi_mqtt.commands import _reach
from sfi_mqtt.desk import Desk, Limits
from sfi_mqtt.headers import Message, unheaded
from sfi_mqtt.listing import drop_session
from sfi_mqtt.messages import encode_status
from sfi_mqtt.outbox import Outbox
from sfi_mqtt.remote import RemoteTurn
from sfi_mqtt.replies import Replies
from sfi_mqtt.requests import DropRequest, ListRequest, TurnRequest, read_request
from sfi_mqtt.tail import Shown, Tail
from tests.integrations.sfi_mqtt.brokers import QUICK, free_port, wait_until
from tests.integrations.sfi_mqtt.examples import step
from tests.integrations.sfi_mqtt.serving import tiny_runtime


def test_a_hundred_thousand_events_without_a_broker_leave_a_full_queue_and_a_count() -> None:
    with MqttEvents(f"mqtt://127.0.0.1:{free_port()}", runtime="r1", queue_size=500, backoff=QUICK) as events:
        for number in range(100_000):
            events.sfi_on_event(step(number))
        assert (events.connected, events.waiting, events.dropped) == (False, 500, 99_500)
    assert (events.waiting, events.dropped) == (0, 100_000)


def test_a_refused_connection_is_logged_once_and_close_says_what_was_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    url = f"mqtt://127.0.0.1:{free_port()}"
    with caplog.at_level(logging.INFO):
        events = MqttEvents(url, runtime="r1", backoff=QUICK)
        events.sfi_on_event(step(1))
        time.sleep(1)  # several attempts
        events.close()
    told = [record.getMessage() for record in caplog.records]
    first, last = [each for each in told if url in each]  # a connection of another test may end meanwhile
    assert first.startswith(f"{url}: ")
    assert "refused" in first
    assert last == f"{url}: closed with 1 events unpublished"


def test_a_service_publishes_the_events_of_its_runtime_alone() -> None:
    url, sampling = f"mqtt://127.0.0.1:{free_port()}", Sampling(max_new_tokens=2)
    with (
        tiny_runtime(None) as ours,
        tiny_runtime(None) as other,
        BusService(url, ours, name="r1", backoff=QUICK) as service,
    ):
        other.generate(other.encode("Hi"), sampling=sampling)
        assert service.waiting == 0
        ours.generate(ours.encode("Hi"), sampling=sampling)
        assert service.waiting > 0


def test_close_returns_although_the_broker_never_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        events = MqttEvents(f"mqtt://127.0.0.1:{silent.getsockname()[1]}", runtime="r1")
        peer, _ = silent.accept()
        events.sfi_on_event(step(1))
        began = time.monotonic()
        events.close(timeout=0.2)
        assert time.monotonic() - began < 5  # the library itself would wait 10 s
        peer.close()
    wait_until(lambda: not any(thread.name.startswith("sfi-r1") for thread in threading.enumerate()))
    assert events.dropped == 1
    events.close()  # a second time changes nothing


def test_one_file_knows_the_library() -> None:
    folder = Path(__file__).parents[3] / "integrations/sfi_mqtt"
    knowing = [file.name for file in folder.glob("*.py") if "import aiomqtt" in file.read_text("utf-8")]
    assert knowing == ["wire.py"]


def test_what_is_given_back_comes_first_again() -> None:
    outbox = Outbox(10)
    for number in range(6):
        outbox.put(step(number))
    outbox.give_back(outbox.take(4)[1:])
    assert [pending.sequence for pending in outbox.take(10)] == [2, 3, 4, 5, 6]
    assert outbox.dropped == 0


def test_what_is_given_back_to_a_full_queue_is_the_first_to_go() -> None:
    outbox = Outbox(4)
    for number in range(4):
        outbox.put(step(number))
    taken = outbox.take(3)
    for number in range(2):
        outbox.put(step(number))
    outbox.give_back(taken)
    assert [pending.sequence for pending in outbox.take(10)] == [3, 4, 5, 6]
    assert outbox.dropped == 2


def test_only_the_first_of_many_events_wakes_the_thread() -> None:
    woken: list[int] = []
    outbox = Outbox(10, wake=lambda: woken.append(1))
    for number in range(5):
        outbox.put(step(number))
    outbox.take(5)
    outbox.put(step(6))
    assert len(woken) == 2


def test_requests_that_nobody_waits_for_keep_no_other_back() -> None:
    asking, asked = Asking("r1"), [Asked(ListRequest()) for _ in range(3)]
    for one in asked:
        asking.ask(one)
    for one in asked[:2]:
        asking.forget(one)
    assert asking.take(1) == [(asked[2],)]


def test_a_runtime_that_comes_back_after_its_client_is_asked_again() -> None:
    """A broker that was killed shows a status from before, and drops what nobody is subscribed to yet."""
    about: dict[str, Any] = {"instance": "1", "serves": True}
    online = Message("sfi/r1/status", encode_status("online", None, 0, about), retain=True)
    asking, asked = Asking("r1"), Asked(ListRequest())
    asking.received(online)
    asking.ask(asked)
    asking.failed()
    asking.connected()
    asking.received(online)
    assert asking.take(9) == [(asked,)]
    asking.received(replace(online, retain=False))  # now it is there
    assert asking.take(9) == [(asked,)]


def test_a_turn_that_is_sent_late_or_again_has_what_is_left_of_its_time() -> None:
    request = TurnRequest.model_validate({"messages": [{"role": "user"}], "timeout": 100})
    asking, asked = Asking("r1"), Asked(request, deadline=time.monotonic() + 50)
    (message,) = asking.messages((asked,))
    left = read_request(message.payload)
    assert isinstance(left, TurnRequest)
    assert left.timeout is not None
    assert 0 < left.timeout <= 50
    assert message.expiry is not None
    assert 0 < message.expiry <= 50
    asked.deadline = time.monotonic() - 1
    (message,) = asking.messages((asked,))
    assert read_request(message.payload).timeout < 0.01
    assert message.expiry == 1


def test_dropping_a_damaged_session_deletes_it(tmp_path: Path) -> None:
    """What is stored of it may be private, and the answer says that it is gone."""
    with tiny_runtime(str(tmp_path)) as runtime:
        runtime.generate([5, 6, 7], session="s", sampling=Sampling(max_new_tokens=2))
        runtime.flush()
        (manifest,) = tmp_path.rglob("manifest.json")
        manifest.write_bytes(b"{")
        assert drop_session(runtime, DropRequest(session="s", stored=True)).session == "s"
        assert not manifest.parent.exists()
        assert drop_session(runtime, DropRequest(session="never", stored=True)).session == "never"


def test_a_request_whose_expiry_is_beyond_any_clock_is_answered() -> None:
    """Of a broker that speaks 3.1.1: there a client writes it as it likes."""
    replies = Replies()
    header = {"response_topic": "r/x", "correlation_data": "01", "expiry": 10**400}
    came = Message("q", json.dumps(header).encode() + b'\n{"kind": "list_sessions"}')
    with tiny_runtime(None) as runtime:
        desk = Desk(runtime, replies, "r/", Limits())
        desk.received(unheaded(came))
        wait_until(lambda: replies.waiting > 0)
        (answered,) = replies.take(10)
        desk.close(0.1)
    assert json.loads(answered.payload)["kind"] == "sessions"


@pytest.mark.parametrize("closing", [False, True])
def test_a_turn_that_ends_while_it_waits_for_its_session_is_told_so(closing: bool) -> None:
    asked = [{"role": "user", "content": "hello"}]
    chat = Chat(asked, sampling=Sampling(max_new_tokens=200, ignore_eos=True), session="s")
    replies = Replies()

    with tiny_runtime(None) as runtime, LocalChat(runtime).open(chat) as first:
        next(iter(first))
        desk = Desk(runtime, replies, "r/", Limits())

        def ask(**what: object) -> None:
            payload = json.dumps({"version": 1, **what}).encode()
            desk.received(Message("q", payload, reply_to="r/x", correlation=b"1"))

        def told() -> list[bytes]:
            return [message.payload for message in replies.take(10)]

        ask(kind="turn", messages=asked, session="s", sampling={"max_new_tokens": 5})
        time.sleep(0.3)
        if closing:
            desk.close(0.1)
        else:
            ask(kind="cancel")
        said: list[bytes] = []
        wait_until(lambda: bool(said.extend(told()) or any(b"error" in each for each in said)))
        if not closing:
            desk.close(0.1)
    last = next(each for each in said if b"error" in each)
    assert json.loads(last)["code"] == ("closing" if closing else "cancelled")


@pytest.mark.usefixtures("uncollected")
def test_a_turn_that_is_collected_while_requests_change_hands_asks_for_its_end() -> None:
    """In the thread that has their lock."""

    class Collecting(dict[Asked, None]):
        def pop(self, *arguments: Any) -> Any:
            gc.collect()
            return super().pop(*arguments)

    asking, asked, other = Asking("desk"), Asked(ListRequest()), Asked(ListRequest())
    service: Any = SimpleNamespace()

    def read(turn: RemoteTurn) -> Iterator[None]:
        with turn:
            yield

    left: list[Any] = [read(RemoteTurn(service, asking, asked))]
    next(left[0])
    left.append(left)
    del left
    asking._due = Collecting(asking._due)
    forgetting = threading.Thread(target=asking.forget, args=(other,), daemon=True)
    forgetting.start()
    forgetting.join(30)
    assert not forgetting.is_alive(), "it waits for itself"
    assert asked.cancelled


def _hear(broker: Broker) -> list[Shown]:
    with Tail(broker, "+") as tail:
        return list(tail.until(threading.Event()))


@pytest.mark.parametrize("ask", [_reach, _hear])
def test_a_connection_that_ends_for_a_reason_of_its_own_is_waited_for_by_nobody(
    ask: Callable[[Broker], Any],
) -> None:
    """A name that cannot be looked up, for one."""
    raised: list[Exception] = []

    def asking() -> None:
        try:
            ask(Broker.of(f"mqtt://{64 * 'a'}.example"))
        except Exception as error:  # of any kind: which is told below
            raised.append(error)

    thread = threading.Thread(target=asking, daemon=True)
    thread.start()
    thread.join(30)
    assert [type(error) for error in raised] == [ServiceError], "it waits for ever"
    assert "idna" in str(raised[0])


@pytest.mark.usefixtures("uncollected")
def test_a_service_that_was_closed_keeps_no_runtime() -> None:
    """Not until the collector runs, either: it is a whole model."""
    runtime = tiny_runtime(None)
    service = BusService(f"mqtt://127.0.0.1:{free_port()}", runtime, name="r1", backoff=QUICK)
    service.close()
    runtime.close()
    known = weakref.ref(runtime)
    del service, runtime
    assert known() is None
