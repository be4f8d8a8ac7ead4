"""Prompts are read in turns, as much of them at a time as a step takes."""

from __future__ import annotations

import threading
from itertools import pairwise
from types import SimpleNamespace

import pytest

from sfi_agent import Runtime
from sfi_agent.runtime import engine, intake
from sfi_agent.runtime.asked import Ask
from sfi_agent.runtime.engine import Engine
from sfi_agent.runtime.intake import taken_in
from sfi_agent.runtime.step import Work

CHUNK = 32


def ask(number, tokens, prompt=None, start=0):
    """Of a row that decodes, or of one that reads the next tokens of a prompt of so many."""
    job = SimpleNamespace(number=number, turn=SimpleNamespace(prompt=range(prompt or 1)))
    return Ask(job, Work((0,) * tokens, prefill=prompt is not None), start)


def numbers(asks):
    return [each.job.number for each in taken_in(asks)]


@pytest.fixture
def room(monkeypatch):
    """For two chunks and a few tokens that are decoded."""
    monkeypatch.setattr(intake, "STEP_TOKENS", 2 * CHUNK + 6)


def test_whoever_decodes_is_in_every_step(room):
    assert numbers([ask(0, 1), ask(1, 9), ask(2, 1)]) == [0, 1, 2]
    assert numbers([ask(0, CHUNK, 200), ask(1, 60), ask(2, 20), ask(3, CHUNK, 90)]) == [0, 1, 2]


def test_the_first_to_come_and_then_the_shortest_are_read(room):
    prompts = [ask(7, CHUNK, 300), ask(4, CHUNK, 900, start=64), ask(9, CHUNK, 200, start=100)]
    assert numbers([ask(3, 1), *prompts]) == [3, 4, 9]
    assert numbers([*prompts, ask(11, 6, 90, start=84)]) == [4, 9, 11]  # and what there is room for still
    assert numbers(prompts[:1]) == [7]


def test_a_chunk_larger_than_a_step_is_read_alone(room):
    prompts = [ask(0, 100, 300), ask(1, 100, 200), ask(2, CHUNK, 50)]
    assert numbers(prompts) == [0]
    assert numbers(prompts[1:]) == [1]
    assert numbers([ask(0, CHUNK, 300), *prompts[1:]]) == [0, 2]


@pytest.mark.parametrize("kind", ["model calls", "one after another", "ahead", "deterministic"])
def test_others_decode_at_every_step_while_many_prompts_are_read(tiny, shared, room, monkeypatch, kind):
    """And all answer as they would alone, whoever was read first."""
    monkeypatch.setattr(engine, "DEVICES", frozenset({"cpu"}) if kind == "ahead" else frozenset())
    pages = {} if kind == "model calls" else {"kv_bytes": 2**22}
    runtime = Runtime.load(
        tiny.model(), tokenizer=tiny.tokenizer, deterministic=kind == "deterministic", **pages
    )
    policy = tiny.policy("sfi", kernel="torch", prefill_chunk=CHUNK)
    steps, real = [], Engine._step

    def step(self, jobs):
        before = [(job.turn, job.turn.work, job.turn.row.kv.length) for job in jobs]
        real(self, jobs)
        done = [(turn, work) for turn, work, length in before if turn.row.kv.length > length]
        chunks = [len(work.tokens) for _, work in done if work.prefill]
        steps.append((chunks, any(len(turn.prompt) == 20 for turn, _ in done)))

    monkeypatch.setattr(Engine, "_step", step)
    sampling = tiny.sampling(120)
    decoding = runtime.stream(tiny.prompt(20), policy=policy, sampling=sampling)
    next(decoding)
    prompts = {index: tiny.prompt(100 + 25 * index, seed=index) for index in range(1, 6)}
    answers = {}

    def answer(index):
        found = runtime.generate(prompts[index], policy=policy, sampling=tiny.sampling(8))
        answers[index] = found.token_ids

    steps.clear()
    threads = [threading.Thread(target=answer, args=(index,)) for index in prompts]
    for thread in threads:
        thread.start()
    tokens = [token for chunk in decoding for token in chunk.token_ids]
    for thread in threads:
        thread.join(60)
    chunks = [read for read, _ in steps]
    assert sum(map(sum, chunks)) == sum(map(len, prompts.values()))
    assert max(map(sum, chunks)) <= 2 * CHUNK + 6
    assert max(map(len, chunks)) > 1
    decoded = [own for read, own in steps if read]
    if kind == "ahead":  # a slow step that is not expected comes a step later
        decoded = [any(pair) for pair in pairwise(decoded)]
    decoded = decoded[: max(index for index, own in enumerate(decoded) if own) + 1]
    assert len(decoded) > 4
    assert all(decoded)
    alone = shared.generate(tiny.prompt(20), policy=policy, sampling=sampling)
    assert tokens == [*alone.token_ids][-len(tokens) :]
    for index, prompt in prompts.items():
        alone = shared.generate(prompt, policy=policy, sampling=tiny.sampling(8))
        assert answers[index] == alone.token_ids
