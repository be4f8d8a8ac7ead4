"""A hundred sessions under a limit that holds ten: part of ``python benchmarks/agents.py``.

Each session has a long text in common with the others and a secret of its own. The text is read once: its
session is forked on disk. Then every session is told its secret, and afterwards every session is asked for
it, some at a time. The run stops, and nothing is recorded, if one tells another's secret or none, if one had
to read its text again, or if sessions ever took more memory than they may.
"""

from __future__ import annotations

import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from record import Record
from workload import MODEL, long_prompt

from sfi_agent.hookspecs import hookimpl

if TYPE_CHECKING:
    from sfi_agent import Runtime
    from sfi_agent.events import Event

SESSIONS, HELD, TOKENS = 100, 10, 2000
TOGETHER = 4
"""Turns in flight."""
COLOURS = ("red", "blue", "green", "white", "black", "yellow", "brown", "purple", "orange", "silver")
ANIMALS = ("horse", "tiger", "mouse", "eagle", "sheep", "rabbit", "camel", "goose", "donkey", "whale")


@dataclass
class Watch:
    """Keeps the most bytes that sessions took at any event."""

    name = "watch"
    runtime: Runtime | None = None
    most: int = 0

    @hookimpl
    def sfi_on_event(self, event: Event) -> None:
        if self.runtime and type(event).__name__ in ("TurnStarted", "TurnFinished", "SessionLoaded"):
            self.most = max(self.most, self.runtime.stats().device.bytes)


def secret(number: int) -> str:
    """Two words, of which no two sessions have the same."""
    return f"{COLOURS[number // 10 % 10]} {ANIMALS[number % 10]}"


def many_sessions(record: Record, *, quick: bool) -> None:
    """All finish, none is mixed up, memory stays under the limit; and what moving them takes."""
    count, tokens = (12, 300) if quick else (SESSIONS, TOKENS)
    with tempfile.TemporaryDirectory() as folder:
        size = _prepare(Path(folder), count, tokens)
        _measure(record, Path(folder), count, HELD // (5 if quick else 1) * size)


def _prepare(folder: Path, count: int, tokens: int) -> int:
    """Store a session for each number; bytes that one takes in memory."""
    from sfi_agent import Policy, Runtime, Sampling
    from sfi_agent.runtime.sizes import tensor_bytes

    with Runtime.load(MODEL, store=folder) as runtime:
        ask = {"policy": Policy(mode="verified"), "sampling": Sampling(max_new_tokens=1, ignore_eos=True)}
        runtime.generate(long_prompt(runtime, tokens - 20), session="text", **ask)
        size = tensor_bytes(runtime.sessions["text"].row)
        runtime.flush()
        runtime.drop_session("text")
        for number in range(count):
            runtime.store.fork("text", f"s{number}")
    return size


def _measure(record: Record, folder: Path, count: int, limit: int) -> None:
    from sfi_agent import Limits, Policy, Registry, Runtime, Sampling

    watch = Watch()
    with Runtime.load(MODEL, store=folder, limits=Limits(bytes=limit), registry=Registry([watch])) as runtime:
        watch.runtime = runtime
        text = runtime.store.inspect("text").tokens - 1  # its answer's one token is none of it
        prose = long_prompt(runtime, text)
        policy = Policy(mode="verified")

        def turn(number: int, prompt: list[int], reused: int, tokens: int) -> tuple[list[int], str]:
            sampling = Sampling(max_new_tokens=tokens, ignore_eos=True)
            result = runtime.generate(prompt, policy=policy, sampling=sampling, session=f"s{number}")
            if result.reused_tokens < reused:
                sys.exit(f"gate: session s{number} read {result.reused_tokens} of {reused} tokens again")
            return [*prompt, *result.token_ids], result.text

        def told(number: int) -> list[int]:
            line = f"\nThe password of this session is: {secret(number)}.\nRemember it."
            return turn(number, [*prose, *runtime.encode(line, raw=True)], text, 8)[0]

        def asked(number: int, history: list[int]) -> str:
            line = "\nQuestion: What is the password?\nAnswer: The password of this session is:"
            return turn(number, [*history, *runtime.encode(line, raw=True)], len(history) - 1, 8)[1]

        began = time.perf_counter()
        with ThreadPoolExecutor(TOGETHER) as threads:
            histories = list(threads.map(told, range(count)))
            answers = list(threads.map(asked, range(count), histories))
        seconds, stats = time.perf_counter() - began, runtime.stats()
    _gate(answers, watch.most, limit)
    name = f"{count} sessions of {len(histories[0])} tokens"
    record.add(name, "sessions", {"told their own secret": [count]})
    record.add(name, "MB", {"in memory at most": [watch.most / 1e6], "allowed": [limit / 1e6]})
    record.add(name, "s", {f"a turn, {TOGETHER} in flight": [seconds / (2 * count)]})
    for kind in ("loaded", "evicted", "saved"):
        moves = getattr(stats, kind)
        record.add(name, "ms", {f"one {kind}": [1000 * moves.seconds / max(1, moves.count)]})


def _gate(answers: list[str], most: int, limit: int) -> None:
    for number, answer in enumerate(answers):
        others = [other for other in range(len(answers)) if other != number and secret(other) in answer]
        if secret(number) not in answer or others:
            sys.exit(f"gate: session s{number} knows {secret(number)!r} and said {answer!r}")
    if not 0 < most <= limit:
        sys.exit(f"gate: sessions took {most:,} bytes of {limit:,}")
