"""Callers of shared steps: who is woken, who steps, and that nobody waits for ever."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections import Counter, deque
from itertools import count
from types import SimpleNamespace

import pytest

from sfi_agent.errors import SFIError
from sfi_agent.runtime.batcher import TOLD, Batcher
from sfi_agent.runtime.job import Job
from sfi_agent.runtime.result import Chunk


class Text:
    """Stands for an answer's text: what the batcher looks at of it."""

    def __init__(self):
        self.chunks = deque()

    @property
    def waiting(self):
        return bool(self.chunks)

    def take(self):
        taken, self.chunks = list(self.chunks), deque()
        return taken


class Turn:
    """Stands for a turn that gives a number at each step, after some steps that give none."""

    def __init__(self, tokens, silent=0):
        self.text, self.work, self.left, self.silent = Text(), object(), tokens, silent
        self.given, self.over = 0, False

    def step(self):
        if self.silent:
            self.silent -= 1
            return
        self.text.chunks.append(Chunk("", (self.given,)))
        self.given += 1
        self.left -= 1
        if not self.left:
            self.finish("length")

    @property
    def answer(self):
        return SimpleNamespace(tokens=range(self.given))

    def finish(self, reason):
        self.work, self.over = None, True


def step(jobs):
    time.sleep(0.0005)  # as on a device, while which others may come
    for job in jobs:
        job.turn.step()


def in_threads(*calls):
    """Run these at the same time; the test fails where one does not end."""
    threads = [threading.Thread(target=call, daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads), "a caller waits for ever"


def test_every_caller_gets_all_of_its_tokens_in_order():
    batcher, found = Batcher(step), {}

    def call(index):
        turn = Turn(30 + index, silent=index % 5)
        found[index] = [token for chunk in batcher.run(Job(turn)) for token in chunk.token_ids]

    in_threads(*(lambda index=index: call(index) for index in range(5 * TOLD)))
    assert found == {index: list(range(30 + index)) for index in range(5 * TOLD)}


def test_of_many_callers_all_are_told_in_turns(monkeypatch):
    batcher, told = Batcher(step), []
    real = Batcher._tell

    def tell(self, own):
        before = {job.number for job in self._jobs if job.due}
        real(self, own)
        told.append({job.number for job in self._jobs if job.due and not job.ended} - before)

    monkeypatch.setattr(Batcher, "_tell", tell)
    in_threads(*(lambda: list(batcher.run(Job(Turn(60)))) for _ in range(3 * TOLD)))
    assert max(map(len, told)) <= TOLD
    times = Counter(number for numbers in told for number in numbers)
    assert len(times) == 3 * TOLD
    assert min(times.values()) >= 5


def test_one_whose_caller_does_not_come_back_holds_up_nobody():
    batcher = Batcher(step)
    slow = batcher.run(Job(Turn(1000)))
    next(slow)
    in_threads(*(lambda: list(batcher.run(Job(Turn(50)))) for _ in range(2 * TOLD)))
    slow.close()


def test_a_step_that_raises_ends_one_caller_and_the_others_go_on():
    failing = threading.Event()

    def failing_step(jobs):
        step(jobs)
        if failing.is_set():
            failing.clear()
            raise KeyboardInterrupt

    batcher, ended = Batcher(failing_step), []

    def call():
        try:
            ended.append(len(list(batcher.run(Job(Turn(200))))))
        except KeyboardInterrupt:
            ended.append("interrupted")

    threading.Timer(0.02, failing.set).start()
    in_threads(*[call] * 12)
    assert sorted(ended, key=str) == [200] * 11 + ["interrupted"]
    assert batcher._jobs == []


def test_a_caller_interrupted_again_while_it_leaves_is_forgotten_all_the_same(monkeypatch):
    stepping, go_on = threading.Event(), threading.Event()

    def held_step(jobs):
        stepping.set()
        assert go_on.wait(30)
        step(jobs)

    def interrupted(*_):
        raise KeyboardInterrupt

    batcher, turn = Batcher(held_step), Turn(1000)
    other = threading.Thread(target=lambda: list(batcher.run(Job(Turn(3)))), daemon=True)
    other.start()
    assert stepping.wait(30)
    job = Job(turn)
    with monkeypatch.context() as patched:
        patched.setattr(job, "sleep", interrupted)
        patched.setattr(batcher, "_wait_until", interrupted)
        with pytest.raises(KeyboardInterrupt):
            next(batcher.run(job))
    go_on.set()
    other.join(30)
    assert batcher._jobs == []
    assert turn.over


def test_a_caller_may_be_interrupted_wherever_a_call_begins():
    """There Python looks whether Ctrl-C came. Others go on, and the caller is forgotten."""
    places = ("runtime/batcher.py", "runtime/job.py", "runtime/garbage.py", "threading.py", "contextlib.py")

    def interrupted_at(number):
        """Whether there are so many places."""
        batcher, left, before = Batcher(step), [number], sys.gettrace()

        def trace(frame, event, _):
            if event == "call" and frame.f_code.co_filename.endswith(places):
                left[0] -= 1
                if not left[0]:
                    sys.settrace(before)
                    raise KeyboardInterrupt

        caller = batcher.run(Job(Turn(2)))
        sys.settrace(trace)
        try:
            list(caller)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        in_threads(lambda: list(batcher.run(Job(Turn(2)))))
        assert batcher._jobs == []
        return left[0] <= 0

    assert next(number for number in count(1) if not interrupted_at(number)) > 30


@pytest.mark.parametrize("seed", range(4))
def test_nobody_waits_for_ever_whatever_callers_do(seed):
    """They cancel, leave in the middle, pause all steps, or fail."""
    choose = random.Random(seed)

    def chaotic_step(jobs):
        step(jobs)
        for job in jobs:
            if choose.random() < 0.002:
                job.error = SFIError("failed")

    batcher = Batcher(chaotic_step)

    def call(kind, tokens):
        for _ in range(3):
            job = Job(Turn(tokens, silent=tokens % 3), timeout=0.05 if kind == "deadline" else None)
            stream = batcher.run(job)
            try:
                for index, _ in enumerate(stream):
                    if index == tokens // 2 and kind == "cancel":
                        job.cancelled.set()
                    if index == tokens // 2 and kind == "leave":
                        break
                    if kind == "slow":
                        time.sleep(0.002)
            except SFIError:
                pass
            stream.close()
            if kind == "pause":
                with batcher.paused():
                    time.sleep(0.001)

    kinds = ["plain", "cancel", "leave", "pause", "slow", "deadline"]
    calls = [(choose.choice(kinds), choose.randint(2, 40)) for _ in range(40)]
    in_threads(*(lambda given=given: call(*given) for given in calls))
    assert batcher._jobs == []
    assert batcher._stepper is None
