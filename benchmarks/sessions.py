"""Sessions on disk: ``python benchmarks/sessions.py [--quick]``; ``make bench`` runs it, too.

The gate comes first: no time is taken unless a session that was read from disk answers token for token as
one that stayed in memory. Then, taking turns: bytes a second of a save and of a load, and the time to
the first token of a follow-up in memory, read from disk by a new process, and after reading the whole
prompt anew. The new process loads the model first, which is not counted; the session's files are in the
system's cache. Medians and ratios of paired rounds are appended to ``benchmarks/results/sessions.csv``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from record import Record, interleaved, show
from workload import MODEL, long_prompt

from sfi_agent.hookspecs import hookimpl
from sfi_agent.store import SessionStore

if TYPE_CHECKING:
    from sfi_agent import Policy, Runtime
    from sfi_agent.events import Event

CONTEXT = 6000
FOLLOW_UP = " Then they asked what had been said about it before."
TOKENS = 8
ROUNDS = 5
SESSION = "conversation"


def main() -> None:
    """Gate, then the measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, nothing recorded: does it run?")
    parser.add_argument("--restore", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.restore:
        restore(*options.restore)
        return
    quick = options.quick
    record = Record("sessions", keep=not quick)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), 400 if quick else CONTEXT)
        bench.gate()
        rounds = 2 if quick else ROUNDS
        bench.first_token(record, rounds)
        bench.speed(record, rounds)
    show(record)


def restore(folder: str, session: str, asked: str) -> None:
    """In a new process: print the seconds to the first token of the follow-up, model at hand."""
    from sfi_agent import Policy, Runtime, Sampling

    prompt, policy = json.loads(Path(asked).read_text(encoding="utf-8"))
    with Runtime.load(MODEL, store=folder) as runtime:
        sampling = Sampling(max_new_tokens=1, ignore_eos=True)
        began = time.perf_counter()
        with runtime.stream(prompt, policy=Policy.of(**policy), sampling=sampling, session=session) as stream:
            next(stream)
            print(time.perf_counter() - began)
        if stream.result.reused_tokens < len(prompt) // 2:
            sys.exit("the session was not read from disk")


@dataclass
class Listener:
    """Keeps the latest event of each kind."""

    name = "benchmark"
    latest: dict[str, Event] = field(default_factory=dict)

    @hookimpl
    def sfi_on_event(self, event: Event) -> None:
        self.latest[type(event).__name__] = event


class Bench:
    """One model, a prompt and its follow-up, and a folder of sessions."""

    def __init__(self, folder: Path, context: int) -> None:
        self.folder, self.context, self.listener = folder, context, Listener()
        self.runtime = self.open(None)
        self.prompt = long_prompt(self.runtime, context)
        self.policy = self.runtime.registry.policy("balanced").but(dense_below=0)

    def open(self, store: str | None) -> Runtime:
        """A runtime on the same weights, with a store of that name in the folder."""
        from sfi_agent import Registry, Runtime

        model: object = MODEL
        tokenizer = None
        if hasattr(self, "runtime"):
            model, tokenizer = self.runtime.model, self.runtime.tokenizer
        where = None if store is None else self.folder / store
        return Runtime.load(model, tokenizer=tokenizer, registry=Registry([self.listener]), store=where)

    def turn(self, runtime: Runtime, prompt: list[int], session: str | None, policy: Policy | None = None):
        from sfi_agent import Sampling

        sampling = Sampling(max_new_tokens=TOKENS, ignore_eos=True)
        return runtime.generate(prompt, policy=policy or self.policy, sampling=sampling, session=session)

    def follow_up(self, answer: tuple[int, ...]) -> list[int]:
        """The prompt, its answer, and a little more."""
        return [*self.prompt, *answer, *self.runtime.encode(FOLLOW_UP, raw=True)]

    def gate(self) -> None:
        """Stop unless a stop between two turns changes nothing."""
        first = self.turn(self.runtime, self.prompt, SESSION)
        self.asked = self.follow_up(first.token_ids)
        with self.open("gate") as runtime:
            stored = self.turn(runtime, self.prompt, SESSION)
        with self.open("gate") as runtime:
            restored = self.turn(runtime, self.asked, SESSION)
        stayed = self.turn(self.runtime, self.asked, SESSION)
        if (stored.token_ids, restored.token_ids) != (first.token_ids, stayed.token_ids):
            sys.exit("gate: a session read from disk answers otherwise than one in memory; nothing is timed")
        print(f"gate: restored = in memory over {TOKENS} tokens at {self.context} tokens")

    def first_token(self, record: Record, rounds: int) -> None:
        """Seconds from asking to the first token of the follow-up; what is loaded for it included."""
        with self.open("first") as runtime:
            self.turn(runtime, self.prompt, SESSION)
        runs = {
            "full prefill": lambda: self._first(self.runtime, None),
            "in memory": self._in_memory,
            "read from disk by a new process": self._restored,
        }
        samples = interleaved(runs, rounds)
        record.add("first token of a follow-up", "s", samples)
        for name in ("in memory", "read from disk by a new process"):
            record.ratio(f"full prefill over {name}", samples["full prefill"], samples[name])

    def _first(self, runtime: Runtime, session: str | None) -> float:
        from sfi_agent import Sampling

        began = time.perf_counter()
        sampling = Sampling(max_new_tokens=1, ignore_eos=True)
        runtime.generate(self.asked, policy=self.policy, sampling=sampling, session=session)
        return time.perf_counter() - began

    def _in_memory(self) -> float:
        """The session holds the prompt and not the follow-up."""
        self.turn(self.runtime, self.prompt, SESSION)
        return self._first(self.runtime, SESSION)

    def _restored(self) -> float:
        """A process that has never seen the session; what is stored is put back as it was afterwards."""
        store = SessionStore(self.folder / "first")
        store.fork(SESSION, "copy")
        asked = self.folder / "asked.json"
        asked.write_text(json.dumps([self.asked, self.policy.model_dump(mode="json")]), encoding="utf-8")
        command = [sys.executable, __file__, "--restore", str(store.folder), "copy", str(asked)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        finally:
            store.delete("copy")
        if done.returncode:
            sys.exit(f"the new process failed: {done.stderr.strip()[-500:]}")
        return float(done.stdout.splitlines()[-1])

    def speed(self, record: Record, rounds: int) -> None:
        """Megabytes a second of saves and loads, bytes of a token, and what a follow-up writes."""
        written: list[float] = []
        runs: dict[str, Callable[[], float]] = {"save": self._save, "load": self._load}
        record.add("whole session", "MB/s", interleaved(runs, rounds))
        with self.open("speed") as runtime:
            info = runtime.store.inspect(SESSION)
            self.turn(runtime, self.asked, SESSION)
            runtime.flush()
            written.append(self.listener.latest["SessionSaved"].written / 1e6)
        record.add("on disk", "kB a token", {"whole session": [info.bytes / info.tokens / 1000]})
        record.add("on disk", "MB", {"save after a follow-up": written, "whole session": [info.bytes / 1e6]})

    def _save(self) -> float:
        with self.open("speed") as runtime:
            if runtime.store.list():
                runtime.store.delete(SESSION)
            held, identity = self.runtime.sessions[SESSION], runtime.sessions._keeper._identity()
            with runtime.store.open(SESSION) as stored:
                began = time.perf_counter()
                saved = stored.save(stored.snapshot(held), identity)
                return saved.stored / 1e6 / (time.perf_counter() - began)

    def _load(self) -> float:
        with self.open("speed") as runtime:
            runtime.notes(SESSION)
            loaded = self.listener.latest["SessionLoaded"]
            return loaded.stored / 1e6 / loaded.seconds


if __name__ == "__main__":
    main()
