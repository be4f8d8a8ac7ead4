"""Lanes of rows in pages: what they write, how large they grow, what is captured of them."""

from __future__ import annotations

import gc
import sys
import weakref
from types import SimpleNamespace

import pytest
import torch
from transformers import AttentionMaskInterface

from sfi_agent import Runtime
from sfi_agent.contracts import LayerSpec
from sfi_agent.policy import Policy
from sfi_agent.registry import default_registry
from sfi_agent.runtime import attention, captured, replay, shape
from sfi_agent.runtime.engine import Engine
from sfi_agent.runtime.graphs import Graphs
from sfi_agent.runtime.memory import refresh
from sfi_agent.runtime.meter import Meter, engine
from sfi_agent.runtime.pages import PAGE, PagedCache
from sfi_agent.runtime.pool import PagePool
from sfi_agent.runtime.remembered import Chosen, Fetched, Listed
from sfi_agent.runtime.replay import Replayer
from sfi_agent.runtime.row import Row
from sfi_agent.runtime.sparse import SparseMemory
from sfi_agent.runtime.step import Step, Work

KERNEL = default_registry().create("kernel", "torch")


class Graph:
    """Replays by running again."""

    def __init__(self, run):
        self.run = run

    @torch.inference_mode()
    def replay(self):
        self.run()


class Replays(Graphs):
    """Captures without a GPU; with ``error`` it cannot."""

    def __init__(self, error=None):
        self._told, self._memory, self._compile, self.error = False, None, False, error
        self.graphs = []

    def _captured(self, run, fused):
        if self.error:
            raise self.error
        graph = Graph(run)
        self.graphs.append(weakref.ref(graph))
        return graph


class Lanes:
    """Rows of a tiny model in so many pages, and what runs them."""

    def __init__(self, runtime, pages, graphs=None):
        self.model, self.window = runtime.model, runtime.window
        like = torch.zeros(2, 16)
        self.pool = PagePool(pages + 1, 2 * [LayerSpec(0.25)], (like, like))
        self.replayer = Replayer(self.model, self.pool, self.window, graphs=graphs)

    def row(self, prompt, kv=None):
        row = Row(kv=PagedCache(self.pool) if kv is None else kv)
        self.plain([row], [Work(tuple(prompt))])
        return row

    def plain(self, rows, works):
        return Step(rows, works, [KERNEL] * len(rows), self.window).run(self.model, self.model.device)

    def jobs(self, rows, tokens):
        parts = SimpleNamespace(kernel=KERNEL, selector=SimpleNamespace(rows_wanted=lambda: 4))
        work = Work(tuple(tokens), wanted=len(tokens))
        return [SimpleNamespace(turn=SimpleNamespace(row=row, work=work, parts=parts)) for row in rows]


@pytest.fixture
def lanes(shared):
    return lambda pages, graphs=None: Lanes(shared, pages, graphs)


def test_a_verify_takes_pages_for_its_own_tokens_alone(tiny, lanes):
    """What only fills the step goes to nobody's page."""
    rig = lanes(4)
    gone = rig.row(tiny.prompt(3 * PAGE))
    row = rig.row(tiny.prompt(58, seed=1))
    gone.truncate(2 * PAGE)
    rig.replayer.run(rig.jobs([gone], [5] * 5))  # its pages are in the lane's first place now
    gone.truncate(0)
    other = rig.row(tiny.prompt(3 * PAGE, seed=2))
    assert rig.pool.free == 0
    before = [[part.clone() for part in other.kv.gathered(layer, 0, 3 * PAGE)] for layer in range(2)]
    tokens, alone = tiny.prompt(5, seed=3), rig.row(tiny.prompt(58, seed=1), kv=Row().kv)
    found = rig.replayer.run(rig.jobs([row], tokens))[0]
    wanted = rig.plain([alone], [Work(tuple(tokens), wanted=5)])[0]
    torch.testing.assert_close(found.logits, wanted.logits, rtol=1e-4, atol=1e-4)
    assert row.kv.length == 63
    assert row.queries.latest(63, 8) == list(range(55, 63))
    for layer in range(2):
        for part, expected in zip(other.kv.gathered(layer, 0, 3 * PAGE), before[layer], strict=True):
            assert torch.equal(part, expected)


def test_what_a_session_kept_goes_with_it(tiny, lanes):
    rig = lanes(8)
    row = rig.row(tiny.prompt(9))
    rig.replayer.run(rig.jobs([row], [5]))
    assert row.queries.latest(10, 1) == [9]
    ring = weakref.ref(row.queries._stack)
    del row
    gc.collect()
    assert ring() is None


def test_a_row_keeps_queries_for_its_own_selector(tiny, lanes):
    """Another's in the same lane is no reason: what a row remembers does not depend on its neighbours."""
    rig = lanes(8)
    asking, other = rig.row(tiny.prompt(9)), rig.row(tiny.prompt(9, seed=1))
    jobs = rig.jobs([asking, other], [5])
    jobs[1].turn.parts = SimpleNamespace(kernel=KERNEL, selector=SimpleNamespace(rows_wanted=lambda: 0))
    rig.replayer.run(jobs)
    assert asking.queries.latest(10, 1) == [9]
    assert other.queries.latest(10, 1) == []


def test_a_memory_of_recent_positions_alone_is_no_dense_one(tiny):
    policy = Policy.of(selector="snapkv", sink=0, budget=2, dense_below=0, kernel="torch")
    answers = [
        Runtime.load(tiny.model(), tokenizer=tiny.tokenizer, **room).generate(
            tiny.prompt(100), policy=each, sampling=tiny.sampling(20)
        )
        for room, each in (({"kv_bytes": 2**22}, policy), ({}, policy), ({}, Policy(mode="dense")))
    ]
    paged, plain, dense = (answer.token_ids for answer in answers)
    assert answers[0].fast_steps > 5
    assert paged == plain != dense


def test_a_lane_makes_no_mask(tiny, lanes, monkeypatch):
    rig = lanes(8)
    row = rig.row(tiny.prompt(9))

    def made(*_, **__):
        raise RuntimeError("a mask")

    monkeypatch.setitem(AttentionMaskInterface._global_mapping, attention.NAME, made)
    with pytest.raises(RuntimeError, match="a mask"):
        rig.plain([row], [Work((5,))])
    rig.replayer.run(rig.jobs([row], [5]))
    assert row.kv.length == 10


def test_a_model_that_makes_its_own_masks_is_given_none():
    assert attention.maskless(torch.nn.Linear(2, 2)) == {}


def test_a_lane_has_so_many_rows_and_tokens(tiny, lanes, monkeypatch):
    monkeypatch.setattr(replay, "LANE_ROWS", 3)
    monkeypatch.setattr(replay, "LANE_TOKENS", 8)
    rig = lanes(8)
    rows = [rig.row(tiny.prompt(9, seed)) for seed in range(5)]
    for tokens, sizes in (([5], [3, 2]), ([5] * 4, [2, 2, 1]), ([5] * 9, [1] * 5)):
        jobs = rig.jobs(rows, tokens)
        found, rest = rig.replayer.lanes(jobs)
        assert [len(lane) for lane in found] == sizes
        assert [job for lane in found for job in lane] == jobs
        assert rest == []


def test_rows_that_read_different_numbers_of_tokens_share_a_lane(tiny, lanes):
    rig = lanes(12)
    rows = [rig.row(tiny.prompt(9, seed)) for seed in range(6)]
    jobs = [rig.jobs([row], [5] * count)[0] for row, count in zip(rows, (1, 3, 4, 16, 60, 50), strict=True)]
    found, rest = rig.replayer.lanes(jobs)
    assert [[len(job.turn.work.tokens) for job in lane] for lane in found] == [[1, 3, 4, 16, 60, 50]]
    assert rest == []
    outcomes = rig.replayer.run(found[0])
    assert [row.kv.length for row in rows] == [10, 12, 13, 25, 69, 59]
    for job, outcome in zip(found[0], outcomes, strict=True):
        tokens = job.turn.work.tokens
        alone = rig.row(tiny.prompt(9, rows.index(job.turn.row)), kv=Row().kv)
        wanted = rig.plain([alone], [Work(tokens, wanted=len(tokens))])[0]
        torch.testing.assert_close(torch.stack(list(outcome.logits)), torch.stack(list(wanted.logits)))


@pytest.mark.parametrize("name", ["balanced", "fast", "exact"])
def test_policies_as_they_come_read_and_decode_in_lanes_alone(tiny, name, monkeypatch):
    """Slow steps that read again what fast ones wrote, too: outside of lanes a GPU waits for the host."""
    outside, called = [], Engine._called

    def noticed(self, jobs):
        outside.extend(job.turn.work for job in jobs)
        return called(self, jobs)

    monkeypatch.setattr(Engine, "_called", noticed)
    runtime = Runtime.load(tiny.model(), tokenizer=tiny.tokenizer, kv_bytes=2**23)
    policy = runtime.registry.policy(name).but(kernel="torch", dense_below=0)
    answer = runtime.generate(tiny.prompt(150), policy=policy, sampling=tiny.sampling(300))
    assert answer.completion_tokens == 300
    assert answer.slow_steps
    assert answer.fast_steps
    assert outside == []


def test_a_step_that_cannot_be_captured_runs_as_it_is(tiny, lanes, caplog):
    rig = lanes(8, Replays(RuntimeError("CUDA out of\nmemory")))
    row, alone = rig.row(tiny.prompt(40)), rig.row(tiny.prompt(40), kv=Row().kv)
    for tokens in ([7], [9], [5, 6, 8]):
        found = rig.replayer.run(rig.jobs([row], tokens))[0]
        wanted = rig.plain([alone], [Work(tuple(tokens), wanted=len(tokens))])[0]
        torch.testing.assert_close(found.logits, wanted.logits, rtol=1e-4, atol=1e-4)
    assert rig.replayer.latest is None
    said = [record.getMessage() for record in caplog.records]
    assert said == ["a step cannot be captured as a CUDA graph and runs as it is, slower: CUDA out of memory"]


@pytest.mark.parametrize("what", ["pages", "places"])
def test_what_was_interrupted_while_it_was_laid_out_is_laid_out_again(tiny, lanes, monkeypatch, what):
    policy, selector = tiny.policy("sfi"), default_registry().create("selector", "snapkv")
    rigs, jobs = [lanes(8), lanes(8)], []
    for rig in rigs:
        row = rig.row(tiny.prompt(90))
        refresh(row, policy, selector, KERNEL)
        jobs += rig.jobs([row], [7])
        jobs[-1].turn.work = Work((7,), fast=True)

    class Once(list):
        def __getitem__(self, index):
            if isinstance(index, slice) and not index.start and fails:
                raise fails.pop()
            return super().__getitem__(index)

    class Torn(Listed):
        def __getattribute__(self, name):
            if name == "positions" and fails and sys._getframe(1).f_code.co_name == "sit":  # places are there
                raise fails.pop()
            return super().__getattribute__(name)

    fails = [KeyboardInterrupt()]
    row = jobs[0].turn.row
    if what == "pages":
        row.kv.held = Once(row.kv.held)
    else:
        row.memory.pages.__class__ = Torn
    with pytest.raises(KeyboardInterrupt):
        rigs[0].replayer.run(jobs[:1])
    again, wanted = (rig.replayer.run([job])[0] for rig, job in zip(rigs, jobs, strict=True))
    torch.testing.assert_close(again.logits, wanted.logits)


def test_few_graphs_are_kept(tiny, lanes, monkeypatch):
    monkeypatch.setattr(replay, "MOST_CAPTURED", 2)
    graphs = Replays()
    rig = lanes(8, graphs)
    rows = [rig.row(tiny.prompt(9, seed)) for seed in range(4)]
    for count in (1, 2, 1, 4, 1):  # two rows' graph is the one that was used least recently
        rig.replayer.run(rig.jobs(rows[:count], [5]))
    gc.collect()  # unlike a GPU's, these graphs know what they run
    assert [graph() is None for graph in graphs.graphs] == [False, True, False]
    rig.replayer.run(rig.jobs(rows[:2], [5]))
    assert len(graphs.graphs) == 4


def test_compiling_and_capturing_count_as_no_step(tiny, lanes, monkeypatch):
    now = [0.0]
    clock = SimpleNamespace(perf_counter=lambda: now[0])

    class Slow(Replays):
        def _captured(self, run, fused):
            now[0] += 100
            return super()._captured(lambda: (now.append(now.pop() + 1), run()), fused)

    rig = lanes(8, Slow())
    row = rig.row(tiny.prompt(40))
    monkeypatch.setattr(captured, "time", clock)
    monkeypatch.setattr(replay, "time", clock)
    steps = [rig.replayer.run(rig.jobs([row], [token]))[0] for token in (5, 6)]
    assert [(step.seconds, step.preparing) for step in steps] == [(1, 100), (1, 0)]
    monkeypatch.setattr("sfi_agent.runtime.meter.time", clock)
    meter = Meter(row, 40)
    meter.token()
    with engine([meter]):
        now[0] += 101
        meter.prepared(100)
    assert meter.tokens_per_second(3) == 2


def test_a_choice_is_laid_out_for_its_stretch(tiny, shared, monkeypatch):
    """Which ends below a power of two that the context has just passed."""
    monkeypatch.setattr(shape, "SHORTEST", 2 * PAGE)
    rig = Lanes(shared, 6)
    rows = [rig.row(tiny.prompt(2 * PAGE + 2, seed)) for seed in range(2)]
    coding = default_registry().create("selector", "index").coding()
    rig.pool.code_with(coding)
    kv = rows[0].kv
    kv.code(coding, 2 * PAGE - 20, KERNEL.rows())
    chosen = Chosen(kv.coded, kv.windows, rig.pool.position_bytes, coding, 4, 16, 0.0)
    rows[0].memory = SparseMemory(kv.length, 16, {}, kv.length, chosen)
    jobs = rig.jobs(rows, [3])
    jobs[0].turn.work = Work((3,), fast=True, wanted=1)
    for lane in (jobs[:1], jobs):
        rig.replayer.run(lane)
        (laid_out, _), _ = list(rig.replayer._captured.items())[-1]
        assert (laid_out.reach, laid_out.span) == (2 * PAGE, 4 * PAGE)


def test_rows_keep_their_places_when_others_come_and_go(tiny, lanes):
    rig = lanes(24)
    rows = [rig.row(tiny.prompt(40, seed)) for seed in range(4)]
    for row in rows:
        remember(rig, row)
    works = [Work((token,), fast=True, wanted=1) for token in (5, 6, 7, 8)]
    jobs = rig.jobs(rows, [1])
    for job, work in zip(jobs, works, strict=True):
        job.turn.work = work
    rig.replayer.run(jobs)
    (held,) = rig.replayer._captured.values()
    seats = [row.memory.pages for row in rows]
    assert [seat() for seat in held._seats._held] == seats
    fewer = [jobs[3], jobs[0], jobs[2]]  # the last one takes the place that is free
    found = rig.replayer.run(fewer)
    assert [id(seat()) for seat in held._seats._held[:3]] == [id(seats[index]) for index in (0, 3, 2)]
    for job, outcome in zip(fewer, found, strict=True):
        row = job.turn.row
        row.kv.truncate(41)
        alone = rig.replayer.run([job])[0]
        torch.testing.assert_close(outcome.logits[0], alone.logits[0])


def test_a_lane_holds_no_memory_of_a_session_that_ended(tiny, lanes):
    """And the next row in its place attends to none of it."""
    rig = lanes(24)
    row, other = rig.row(tiny.prompt(40)), rig.row(tiny.prompt(40, seed=1))
    remember(rig, row)
    jobs = rig.jobs([row, other], [1])
    jobs[0].turn.work = Work((5,), fast=True, wanted=1)
    rig.replayer.run(jobs)
    (lane,) = rig.replayer._captured.values()
    memory = weakref.ref(row.memory.pages)
    row.memory = None
    gc.collect()
    assert memory() is None
    assert lane._seats._counts[:, 0].any()
    lane._seats.sit([])
    assert not lane._seats._counts.any()


def test_steps_of_as_many_rows_share_their_lists(tiny, lanes):
    rig = lanes(24)
    rows = [rig.row(tiny.prompt(40, seed)) for seed in range(2)]
    jobs = rig.jobs(rows, [1])
    for fast in ([True, True], [True, False]):
        for row, job, wanted in zip(rows, jobs, fast, strict=True):
            remember(rig, row)
            job.turn.work = Work((5,), fast=wanted, wanted=1)
        rig.replayer.run(jobs)
    alike, mixed = rig.replayer._captured.values()
    assert alike is not mixed
    assert alike._seats is mixed._seats
    rig.replayer._captured.clear()
    del alike, mixed
    gc.collect()
    assert not rig.replayer._seats


def remember(rig, row):
    """Every third position, up to 8 before the last."""
    tail = row.kv.length - 8
    chosen = torch.arange(0, tail, 3).expand(2, 2, -1)
    places = torch.empty(chosen.shape, dtype=torch.int32)
    kept = torch.zeros((), dtype=torch.int64)
    KERNEL.rows().place(chosen, row.kv.table(), places, kept)
    pages = Listed(tail, row.kv.windows, rig.pool.position_bytes, places, Fetched(kept))
    row.memory = SparseMemory(row.kv.length, 8, {}, row.kv.length, pages)
