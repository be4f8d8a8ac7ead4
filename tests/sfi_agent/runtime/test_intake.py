"""Prompts are read in turns, as much of them at a time as a step takes."""

from __future__ import annotations

import threading
import time
from itertools import pairwise
from types import SimpleNamespace

import pytest

from sfi_agent import Runtime
from sfi_agent.contracts import PAGE
from sfi_agent.runtime import engine, intake
from sfi_agent.runtime.asked import RowAsk
from sfi_agent.runtime.engine import Engine
from sfi_agent.runtime.intake import Intake
from sfi_agent.runtime.step import Work
from sfi_agent.runtime.turn import Turn

CHUNK = 32


def ask(number, tokens, prompt=None, start=0):
    """Of a row that decodes, or of one that reads the next tokens of a prompt of so many."""
    turn = SimpleNamespace(prompt=range(prompt or 1), others=None)
    job = SimpleNamespace(number=number, turn=turn)
    return RowAsk(job, Work((0,) * tokens, prefill=prompt is not None), start)


def numbers(asks):
    return sorted(each.job.number for each in Intake().taken(asks))


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


def test_a_chunk_larger_than_a_step_takes_turns_with_the_shortest(room):
    long, longer, short = ask(0, 100, 300), ask(1, 100, 400), ask(2, CHUNK, 50)
    intake = Intake()
    read = [[each.job.number for each in intake.taken([short, long, longer])] for _ in range(5)]
    assert read == [[0], [2], [0], [2], [0]]
    assert [each.job.number for each in intake.taken([long, longer])] == [1]
    assert [each.job.number for each in intake.taken([long])] == [0]


def beginner(number, there, shared):
    """A prompt of 300 tokens, none read: others hold ``there`` of it, and another begins with ``shared``."""
    kv = SimpleNamespace(length=0, exact=0)

    def begin():
        kv.length = kv.exact = turn.reused = there

    turn = SimpleNamespace(
        prompt=range(300), reused=0, row=SimpleNamespace(kv=kv), work=Work((0,) * CHUNK, prefill=True),
        others=SimpleNamespace(shared=lambda _: shared), begin_as_others=begin,
    )  # fmt: skip
    return RowAsk.of(SimpleNamespace(number=number, turn=turn, alike={}))


@pytest.mark.parametrize(
    ("there", "shared", "read"), [(0, 0, [0, 1]), (0, 256, [0]), (128, 256, [0]), (256, 256, [0, 1])]
)
def test_one_that_begins_as_another_waits_for_more_than_is_there(room, there, shared, read):
    """Also where that other one has just begun with what was."""
    assert numbers([beginner(number, there, shared) for number in range(2)]) == read


def test_whom_the_first_one_waits_for_is_read_in_its_place(room):
    """Shorter ones would go before it for ever."""
    waits, short = beginner(0, 0, 256), [ask(number, 2 * CHUNK, 70) for number in (5, 6)]
    leads = beginner(4, 0, 0)
    leads = RowAsk(leads.job, leads.work, CHUNK)
    assert numbers([waits, *short, leads]) == [4]


@pytest.fixture
def steps(monkeypatch):
    """For each step: the turns that were advanced, and what they did."""
    found, real = [], Engine._step

    def step(self, jobs):
        found.append([])
        real(self, jobs)

    def advance(turn, outcome):
        found[-1].append((turn, turn.work))
        told(turn, outcome)

    told = Turn.advance
    monkeypatch.setattr(Engine, "_step", step)
    monkeypatch.setattr(Turn, "advance", advance)
    return found


def chunks_of(steps):
    """Tokens of the chunks that each step read."""
    return [[len(work.tokens) for _, work in step if work.prefill] for step in steps]


def opened(tiny, monkeypatch, kind):
    """A runtime of this kind of steps."""
    monkeypatch.setattr(engine, "DEVICES", frozenset({"cpu"}) if kind == "ahead" else frozenset())
    pages = {} if kind == "model calls" else {"kv_bytes": 2**22}
    return Runtime.load(
        tiny.model(), tokenizer=tiny.tokenizer, deterministic=kind == "deterministic", **pages
    )


def beside(runtime, prompts, **options):
    """Begin turns of these, each in a thread, and in a session if its name is a text; what they give."""
    results = {}

    def answer(name):
        session = name if isinstance(name, str) else None
        results[name] = runtime.generate(prompts[name], session=session, **options)

    threads = [threading.Thread(target=answer, args=(name,)) for name in prompts]
    for thread in threads:
        thread.start()
    return results, threads


KINDS = ["model calls", "one after another", "ahead"]


@pytest.mark.parametrize("kind", [*KINDS, "deterministic"])
def test_others_decode_at_every_step_while_many_prompts_are_read(
    tiny, shared, room, steps, monkeypatch, kind
):
    """And all answer as they would alone, whoever was read first."""
    runtime, policy = opened(tiny, monkeypatch, kind), tiny.policy("sfi", kernel="torch", prefill_chunk=CHUNK)
    decoding = runtime.stream(tiny.prompt(20), policy=policy, sampling=tiny.sampling(120))
    next(decoding)
    prompts = {index: tiny.prompt(100 + 25 * index, seed=index) for index in range(1, 6)}
    steps.clear()
    results, threads = beside(runtime, prompts, policy=policy, sampling=tiny.sampling(8))
    tokens = [token for chunk in decoding for token in chunk.token_ids]
    for thread in threads:
        thread.join(60)
    chunks = chunks_of(steps)
    assert sum(map(sum, chunks)) == sum(map(len, prompts.values()))
    assert max(map(sum, chunks)) <= 2 * CHUNK + 6
    assert max(map(len, chunks)) > 1
    decoded = [
        any(len(turn.prompt) == 20 for turn, _ in step)
        for step, read in zip(steps, chunks, strict=True)
        if read
    ]
    if kind == "ahead":  # a slow step that is not expected comes a step later
        decoded = [any(pair) for pair in pairwise(decoded)]
    decoded = decoded[: max(index for index, own in enumerate(decoded) if own) + 1]
    assert len(decoded) > 4
    assert all(decoded)
    alone = shared.generate(tiny.prompt(20), policy=policy, sampling=tiny.sampling(120))
    assert tokens == [*alone.token_ids][-len(tokens) :]
    for index, prompt in prompts.items():
        alone = shared.generate(prompt, policy=policy, sampling=tiny.sampling(8))
        assert results[index].token_ids == alone.token_ids


@pytest.mark.parametrize("mode", ["dense", "sfi", "verified"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_prompts_begin_with_is_read_once(tiny, shared, room, steps, monkeypatch, kind, mode):
    runtime, common = opened(tiny, monkeypatch, kind), tiny.prompt(4 * PAGE + 10)
    options = {
        "policy": tiny.policy(mode, kernel="torch", prefill_chunk=CHUNK, adaptive_draft=False),
        "sampling": tiny.sampling(12),
    }
    prompts = {f"s{seed}": [*common, *tiny.prompt(15 + 30 * seed, seed=seed)] for seed in range(1, 6)}
    results, threads = beside(runtime, prompts, **options)
    for thread in threads:
        thread.join(60)
    reused = sorted(result.reused_tokens for result in results.values())
    assert reused == [0] + 4 * [4 * PAGE]
    read = sum(map(sum, chunks_of(steps)))
    assert read == sum(map(len, prompts.values())) - sum(reused)
    for name, prompt in prompts.items():
        for _ in range(2):  # and a turn that goes on from there
            alone = shared.generate(prompt, session=f"{kind} {mode} {name}", **options)
            assert results[name].token_ids == alone.token_ids
            prompt = [*prompt, *alone.token_ids, *tiny.prompt(9)]
            results[name] = runtime.generate(prompt, session=name, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_one_that_waited_goes_on_where_a_cancelled_one_ended(tiny, shared, room, steps, monkeypatch, kind):
    runtime, begin = opened(tiny, monkeypatch, kind), tiny.prompt(400)
    options = {
        "policy": tiny.policy("sfi", kernel="torch", prefill_chunk=CHUNK),
        "sampling": tiny.sampling(9),
    }
    prompt = [*begin[:350], *tiny.prompt(30, seed=1)]
    waiting = []

    def progress(done, _):
        if done == CHUNK:
            waiting.extend(beside(runtime, {"b": prompt}, **options))
        time.sleep(
            0.03
        )  # between two steps the other one comes; if it does not, it finds as much when it does
        if done == 6 * CHUNK:
            first.cancel()

    first = runtime.stream(begin, session="a", on_progress=progress, **options)
    assert list(first) == []
    results, threads = waiting
    threads[0].join(60)
    assert 2 * PAGE <= results["b"].reused_tokens <= 3 * PAGE
    assert results["b"].token_ids == shared.generate(prompt, **options).token_ids


def test_a_prompt_whose_selector_fails_meanwhile_ends_alone(tiny, room, monkeypatch):
    """Others go on, those that would have waited for it included."""
    runtime, common = opened(tiny, monkeypatch, "one after another"), tiny.prompt(3 * PAGE)
    prompts = {f"s{seed}": [*common, *tiny.prompt(20, seed=seed)] for seed in range(1, 4)}
    failing, real = [], Turn.begin_as_others

    def begin(turn):
        failing.append(turn.session.id)
        if len(failing) == 1:
            raise RuntimeError("told to forget")
        real(turn)

    monkeypatch.setattr(Turn, "begin_as_others", begin)
    errors = []
    monkeypatch.setattr(threading, "excepthook", lambda about: errors.append(str(about.exc_value)))
    options = {"policy": tiny.policy("dense", kernel="torch", prefill_chunk=CHUNK)}
    results, threads = beside(runtime, prompts, sampling=tiny.sampling(5), **options)
    for thread in threads:
        thread.join(60)
    assert errors == ["told to forget"]
    assert set(results) == set(prompts) - {failing[0]}
