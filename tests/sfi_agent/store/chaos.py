"""Kill -9 at random moments of a save: ``python -m tests.sfi_agent.store.chaos FOLDER TRIALS SEED``.

Imports once and forks a child for each trial. The child saves one turn after another and tells, through
a pipe, each turn that was acknowledged; the parent kills it somewhere, opens the session, and checks that
it is whole, and no further than the turn after the acknowledged one. Prints one JSON object of counts, among
them acknowledged turns that are not there any more.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import torch

from sfi_agent.runtime.session import Session
from sfi_agent.store import SessionStore
from sfi_agent.store.naming import folder_name
from tests.sfi_agent.store.sessions import IDENTITY, Numbers, load, make

LONGEST = 0.12
"""Seconds that a child lives at most; it saves a turn in some milliseconds."""


def history(seed: int, turns: int) -> Numbers:
    """The session of ``seed`` after so many turns, always the same."""
    source, numbers = random.Random(seed), Numbers(seed)
    for _ in range(turns):
        step(source, numbers)
    return numbers


def step(source: random.Random, numbers: Numbers) -> None:
    length = len(numbers.epochs)
    numbers.turn(length if source.random() < 0.7 else source.randint(0, length), source.randint(1, 200))


def child(store: SessionStore, seed: int, turns: int, told: int) -> None:
    """Go on from ``turns`` turns, saving each, until killed."""
    source = random.Random(seed)
    numbers = Numbers(seed)
    for _ in range(turns):
        step(source, numbers)
    with store.open("numbers") as stored:
        if turns:
            loaded = Session("numbers")
            stored.load(loaded, IDENTITY, torch.device("cpu"), make)
            numbers.check(loaded)
            numbers.session, numbers.selector = loaded, loaded.kept.selector
        while True:
            step(source, numbers)
            stored.save(stored.snapshot(numbers.session), IDENTITY)
            os.write(told, numbers.session.turns.to_bytes(4, "little"))


def trial(store: SessionStore, seed: int, turns: int, after: float) -> int:
    """One life and death of a child; the turn acknowledged last."""
    reading, writing = os.pipe()
    if (process := os.fork()) == 0:
        try:
            child(store, seed, turns, writing)
        finally:
            os._exit(1)  # it never ends by itself
    os.close(writing)
    time.sleep(after)
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    assert os.WIFSIGNALED(status), "the child failed before it was killed"
    with os.fdopen(reading, "rb") as pipe:
        data = pipe.read()
    return int.from_bytes(data[-4:], "little") if data else turns


def main(folder: str, trials: int, seed: int) -> None:
    source, outcomes = random.Random(seed), Counter(trials=0, lost=0)
    turns, store = 0, SessionStore(Path(folder) / "0")
    for number in range(trials):
        if turns > 40:
            turns, store = 0, SessionStore(Path(folder) / str(number))
        acknowledged = trial(store, seed, turns, source.uniform(0.0, LONGEST))
        there = store.folder / folder_name("numbers")
        left = len(list(there.iterdir())) if there.is_dir() else 0
        outcomes["trials"] += 1
        loaded = load(store) if store.list() else Session("numbers")
        turns = loaded.turns
        outcomes["lost"] += max(0, acknowledged - turns)
        assert turns <= acknowledged + 1, (turns, acknowledged)
        if not turns:
            outcomes["nothing stored yet"] += 1
            continue
        history(seed, turns).check(loaded)
        outcomes["the turn in progress was there already" if turns > acknowledged else "whole"] += 1
        outcomes["killed within a save"] += left > store.inspect("numbers").files + 1
    print(json.dumps(outcomes))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
