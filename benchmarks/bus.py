"""What the bus costs and keeps: ``make bench``, or ``python benchmarks/bus.py [--quick]``; needs mosquitto.

The last part is a gate: an answer that is lost, comes twice, or is run twice stops the run.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from record import Record, interleaved, show
from workload import MODEL

from sfi_agent import Policy, Runtime, Sampling
from sfi_agent.chat import Chat, ChatService, LocalChat
from sfi_agent.events import Event, SlowStep, TurnStarted
from sfi_agent.hookspecs import hookimpl
from sfi_agent.registry import Registry
from sfi_agent.tools import Text
from sfi_mqtt import BusRuntime, BusService, MqttEvents
from sfi_mqtt.backoff import Backoff

RATE = 12_000
"""Events a second that are offered: 10,000 are asked for."""
AWAY = 100_000
"""Events while there is no broker."""
KILLS, TURNS = 10, 4
"""Of the broker, and turns that are under way at each."""
SOON = Backoff(first=0.05, most=0.2)
SUBSCRIBER = """
import sys, time
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
wanted, got = int(sys.argv[2]), 0
def count(client, _, message):
    global got
    got += 1
    if got == wanted:
        client.disconnect()
client = mqtt.Client(CallbackAPIVersion.VERSION2)
client.on_message = count
client.on_subscribe = lambda *_: print("listening", flush=True)
client.on_connect = lambda client, *_: client.subscribe("sfi/bench/events/#", qos=0)
client.connect("127.0.0.1", int(sys.argv[1]))
client.loop_forever()
print(time.time(), flush=True)
"""


class Mosquitto:
    """A broker on a free port of this machine, kept in a folder of its own."""

    def __init__(self, program: str, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self._command = [program, "-c", str(folder / "mosquitto.conf")]
        lines = (f"listener {self.port} 127.0.0.1", "allow_anonymous true", "log_dest none")
        (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stderr=subprocess.DEVNULL)
        until(self._answers)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class Turns:
    """A plugin that counts the turns that begin."""

    def __init__(self) -> None:
        self.begun = 0

    @hookimpl
    def sfi_on_event(self, event: Event) -> None:
        self.begun += isinstance(event, TurnStarted)


def main() -> None:
    """Events first, then turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a short form of all parts, nothing recorded")
    parser.add_argument("--untimed", action="store_true", help="record no times: the machine is busy")
    options = parser.parse_args()
    quick = options.quick
    program = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if program is None:
        sys.exit("benchmarks/bus.py needs the mosquitto broker (Debian, Ubuntu: apt-get install mosquitto)")
    record = Record("bus", keep=not quick, timed=not options.untimed)
    with tempfile.TemporaryDirectory() as folder:
        broker = Mosquitto(program, Path(folder))
        memory(record)
        broker.start()
        try:
            events(record, broker, seconds=2 if quick else 10, rounds=1 if quick else 5)
            with Runtime.load(MODEL, registry=Registry(extra=[turns := Turns()])) as runtime:
                slowing(record, broker, runtime, rounds=2 if quick else 10)
                first_token(record, broker, runtime, rounds=4 if quick else 40)
                kills(record, broker, runtime, turns, count=2 if quick else KILLS)
        finally:
            broker.kill()
    show(record)


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for what must happen."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            sys.exit("gate: something that must happen did not")
        time.sleep(0.002)


def step(number: int) -> SlowStep:
    return SlowStep(session="bench", turn=1, position=number, tokens=1)


def memory(record: Record) -> None:
    """Growth of this process over many events, once the queue is full, with nobody to send them to."""
    with MqttEvents("mqtt://127.0.0.1:1", runtime="bench", backoff=SOON) as plugin:
        for number in range(20_000):
            plugin.sfi_on_event(step(number))
        full = _resident()
        for number in range(AWAY):
            plugin.sfi_on_event(step(number))
        grown = _resident() - full
        dropped = plugin.dropped
    if dropped != 20_000 + AWAY - 10_000:
        sys.exit(f"gate: {dropped} events were counted as dropped")
    record.add("memory", "MB", {f"grown over {AWAY} events without a broker": [grown / 1e6]})


def _resident() -> int:
    """Bytes of this process in memory."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def events(record: Record, broker: Mosquitto, seconds: int, rounds: int) -> None:
    """Events a second that arrive at a subscriber of another process, of ``RATE`` that are offered."""
    rates, late = list[float](), list[float]()
    for _ in range(rounds):
        command = [sys.executable, "-c", SUBSCRIBER, str(broker.port), str(RATE * seconds)]
        subscriber = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert subscriber.stdout
        subscriber.stdout.readline()
        with MqttEvents(broker.url, runtime="bench", queue_size=RATE * seconds) as plugin:
            until(lambda plugin=plugin: plugin.connected)
            began = time.time()
            for tick in range(100 * seconds):
                for number in range(RATE // 100):
                    plugin.sfi_on_event(step(number))
                time.sleep(max(0.0, began + (tick + 1) / 100 - time.time()))
            ended = time.time()
            arrived = float(subscriber.stdout.readline())
        subscriber.wait()
        rates.append(RATE * seconds / (arrived - began))
        late.append(1000 * (arrived - ended))
    record.add(
        f"events through mosquitto, {RATE} a second offered for {seconds} s", "events/s", {"rate": rates}
    )
    record.add("the last event after its making", "ms", {"delay": late})


def slowing(record: Record, broker: Mosquitto, runtime: Runtime, rounds: int) -> None:
    """Milliseconds of a decode step, with its events on the bus and without."""
    prompt = runtime.encode("Tell me of the fjords of Norway.")
    policy = Policy(dense_below=0, budget=32, recent=8, mode="sfi")
    sampling = Sampling(max_new_tokens=96, ignore_eos=True)

    def decode() -> float:
        return 1000 / runtime.generate(prompt, policy=policy, sampling=sampling).decode_tokens_per_second

    with MqttEvents(broker.url, runtime="bench") as plugin:
        until(lambda: plugin.connected)

        def watched() -> float:
            runtime.observers.add(plugin)
            try:
                return decode()
            finally:
                runtime.observers.remove(plugin)

        samples = interleaved({"alone": decode, "on the bus": watched}, rounds)
    record.add("decode step", "ms", samples)
    record.ratio("decode step on the bus over alone", samples["on the bus"], samples["alone"], less=True)


def ask(text: str, tokens: int) -> Chat:
    messages = [{"role": "user", "content": text}]
    return Chat(messages, sampling=Sampling(max_new_tokens=tokens, ignore_eos=True))


def first_token(record: Record, broker: Mosquitto, runtime: Runtime, rounds: int) -> None:
    """Milliseconds from asking to the first text, of the runtime here and of the same over the bus."""

    def first(service: ChatService) -> float:
        began = time.perf_counter()
        with service.open(ask("Name a river.", 4)) as stream:
            while not next(stream):
                pass
            taken = time.perf_counter() - began
            for _ in stream:
                pass
        return 1000 * taken

    with BusService(broker.url, runtime, name="bench"), BusRuntime(broker.url, "bench") as far:
        near = LocalChat(runtime)
        until(lambda: far.trouble == "")
        samples = interleaved({"here": lambda: first(near), "over the bus": lambda: first(far)}, rounds)
    record.add("time to first text", "ms", samples)
    added = [a - b for a, b in zip(samples["over the bus"], samples["here"], strict=True)]
    record.add("added by the bus", "ms", {"time to first text": added})


def kills(record: Record, broker: Mosquitto, runtime: Runtime, turns: Turns, count: int) -> None:
    """The broker is killed in the middle of turns; every answer must come, once, and be whole."""
    before, answers, twice = turns.begun, 0, 0

    def run(far: BusRuntime, number: int, pieces: list[str]) -> str:
        with far.open(ask(f"Write a story of {number} ships.", 48)) as stream:
            for events in stream:
                pieces.extend(event.text for event in events if isinstance(event, Text))
        return stream.result.text

    with (
        BusService(broker.url, runtime, name="bench", backoff=SOON),
        BusRuntime(broker.url, "bench", backoff=SOON) as far,
        ThreadPoolExecutor(TURNS) as pool,
    ):
        until(lambda: far.trouble == "")
        for kill in range(count):
            heard: list[list[str]] = [[] for _ in range(TURNS)]
            running = [pool.submit(run, far, kill * TURNS + n, pieces) for n, pieces in enumerate(heard)]
            until(lambda heard=heard: all(heard))
            if any(future.done() for future in running):
                sys.exit("gate: a turn was over before the broker was killed; allow it more tokens")
            broker.kill()
            broker.start()
            for future, pieces in zip(running, heard, strict=True):
                text = future.result(300)
                answers += 1
                twice += "".join(pieces) != text.strip()
    asked, run_again = count * TURNS, turns.begun - before - count * TURNS
    if answers != asked or twice or run_again:
        sys.exit(f"gate: of {asked} turns {answers} were answered, {twice} not once, {run_again} ran again")
    counts: dict[str, list[Any]] = {
        "turns asked": [asked],
        "answered once and whole": [answers],
        "run again": [run_again],
    }
    record.add(f"broker killed {count} times in the middle of turns", "turns", counts)


if __name__ == "__main__":
    main()
