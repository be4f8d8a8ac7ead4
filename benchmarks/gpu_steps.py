"""Decode steps of whole models on a GPU: ``python benchmarks/gpu_steps.py [--model M] [ROWSxCONTEXT ...]``.

Weights and contexts are random numbers, so only speed is measured: of a dense step, of a fast step over
2,048 remembered positions and 256 recent ones, of one in which one row is dense among such, and of one in
which that row reads 24 tokens, of one that chooses these positions anew from two-bit codes, of a dense one
that keeps queries for a selector (slow), and of a pass over 16 tokens a row; all keep their queries but the
dense one and the one that needs none to choose; and what it takes to refresh one row's memory, by selectors
and by coding the keys of 24 new tokens, alone and behind a step. Each step is the one that the engine
captures; times are of its replays, in turns, and of the engine's whole step on the host. A step's floor is
what it must read over the bandwidth of a copy in the same run.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from record import Record, show
from rig import RECENT, SELECTED, SINK, Rig, large_copy, random_model, timed

from sfi_agent.policy import Policy
from sfi_agent.registry import default_registry
from sfi_agent.runtime.memory import refresh
from sfi_agent.runtime.queries import EVIDENCE_ROWS
from sfi_agent.runtime.row import Row

SHAPES = ("1x8192", "8x8192", "16x8192", "1x32768", "8x32768", "1x131072", "3x131072")
ROUNDS = 9
VERIFIED, SLOW_EVERY = 16, 24
ONE_SLOW = "one row dense, the others fast"
ONE_REPAIRED = f"one row dense, of {SLOW_EVERY} tokens, the others fast"
PLAIN = "dense", "fast with index"
"""Steps whose queries no selector is going to ask for."""


def main() -> None:
    """Shape after shape."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shapes", nargs="*", default=list(SHAPES), help="rows x context, as in 8x32768")
    parser.add_argument("--model", default="qwen3-4b", help="qwen3-4b, qwen3-0.6b or llama-3-8b")
    options = parser.parse_args()
    record = Record("gpu_steps")
    model, sizes = random_model(options.model), [tuple(map(int, each.split("x"))) for each in options.shapes]
    bandwidth = copy_bandwidth()
    rig = Rig.of(model, max(rows * (context + 128) for rows, context in sizes))
    for rows, context in sizes:
        steps(record, rig, options.model, rows, context, bandwidth)
    show(record)


def copy_bandwidth() -> float:
    """Bytes a millisecond, read and written, of a large copy."""
    copy, moved = large_copy()
    return moved / statistics.median(copy() for _ in range(9))


def steps(record: Record, rig: Rig, model: str, rows: int, context: int, bandwidth: float) -> None:
    """One shape's steps, in turns."""
    own = [rig.row(context) for _ in range(rows)]
    listed: list[Any] = [rig.listed(row) for row in own]
    single = [1] * rows
    memories: dict[str, tuple[list[Any], list[int]]] = {
        "fast": (listed, single),
        ONE_SLOW: ([None, *listed[1:]], single),
        ONE_REPAIRED: ([None, *listed[1:]], [SLOW_EVERY, *single[1:]]),
        "fast with index": ([rig.chosen(row) for row in own], single),
        "dense": ([None] * rows, single),
        "slow": ([None] * rows, single),
        f"verify {VERIFIED}": ([None] * rows, [VERIFIED] * rows),
    }
    position, remembered = rig.position_bytes(), SELECTED + RECENT
    codes = (context - RECENT) * rig.code_bytes()
    read = {
        "fast": rows * remembered * position,
        ONE_SLOW: ((rows - 1) * remembered + context) * position,
        ONE_REPAIRED: ((rows - 1) * remembered + context) * position,
        "fast with index": rows * (remembered * position + codes),
        "dense": rows * context * position,
        "slow": rows * context * position,
        f"verify {VERIFIED}": rows * context * position,
    }
    floors = {name: (rig.weight_bytes + each) / bandwidth for name, each in read.items()}
    if rows == 1:
        memories.pop(ONE_SLOW)
        memories.pop(ONE_REPAIRED)
    graphs: dict[str, torch.cuda.CUDAGraph] = {}
    wholes: dict[str, Callable[[], float]] = {}
    for name, (kept, tokens) in memories.items():

        def whole(kept=kept, tokens=tokens, captured=name not in PLAIN) -> float:
            for row, memory in zip(own, kept, strict=True):
                row.memory, row.capture = memory, captured
            verifies = min(tokens) > 1
            jobs = rig.jobs(own, tokens, evidence=EVIDENCE_ROWS if captured else 0, every=verifies)
            began = time.perf_counter()
            rig.replayer.run(jobs)
            seconds = time.perf_counter() - began
            for row in own:
                row.kv.truncate(context)
            return 1000 * seconds

        whole()
        assert rig.replayer.latest
        graphs[name] = rig.replayer.latest
        wholes[name] = whole
    measured = {name: [] for name in graphs}
    hosts = {name: [] for name in wholes}
    for _ in range(ROUNDS):
        for name, graph in graphs.items():
            hosts[name].append(wholes[name]())
            measured[name].append(timed(graph.replay))
    where = f"{model}, {rows} x {context}"
    record.add(f"step, {where}", "ms", measured)
    record.add(f"step with the engine's work on the host, {where}", "ms", hosts)
    for name, times in measured.items():
        record.ratio(f"{name}, over its floor, {where}", times, [floors[name]] * len(times), less=True)
    record.ratio(f"slow over dense, {where}", measured["slow"], measured["dense"], less=True)
    alone, behind = refreshes(rig, own[0], graphs["slow"].replay)
    record.add(f"refresh of one row, {where}", "ms", alone)
    record.add(f"refresh of one row behind a step, {where}", "ms", behind)
    for name, times in behind.items():
        record.ratio(
            f"refresh of one row behind a step, {name}, over a slow step, {where}",
            times,
            measured["slow"],
            less=True,
        )
    held = torch.cuda.max_memory_allocated()
    needed = rig.weight_bytes + rig.pool.keys.nbytes + rig.pool.values.nbytes
    record.ratio(f"peak memory over weights and KV, {where}", [held], [needed], less=True)


def refreshes(rig: Rig, row: Row, step: Callable[[], object]) -> list[dict[str, list[float]]]:
    """Milliseconds of choosing one row's memory anew, in turns: alone, and behind a step.

    Alone the device waits for the host, which takes as long where the context is short. Behind a step, as in
    turns, the host has done its part by then.
    """
    kernel, registry, length = (
        default_registry().create("kernel", "triton"),
        default_registry(),
        row.kv.length,
    )
    coding, tail = rig.pool.coding, length - RECENT

    def coded() -> None:
        row.kv.coded = tail - SLOW_EVERY
        row.kv.code(coding, tail, kernel.rows())

    runs: dict[str, Callable[[], object]] = {f"coding of {SLOW_EVERY} keys": coded}
    for name in ("snapkv", "paper"):
        policy = Policy.of(selector=name, budget=SELECTED + RECENT, recent=RECENT, sink=SINK, dense_below=0)
        selector = registry.create("selector", name)
        runs[name] = lambda policy=policy, selector=selector: refresh(row, policy, selector, kernel)
    rig.asked(row, EVIDENCE_ROWS)
    spent: list[dict[str, list[float]]] = [{name: [] for name in runs} for _ in range(2)]
    for index in range(ROUNDS + 2):
        for name, run in runs.items():
            for before, kept in zip((None, step), spent, strict=True):
                if before:
                    before()
                time_taken = timed(run, 1)
                if index > 1:
                    kept[name].append(time_taken)
    return spent


if __name__ == "__main__":
    main()
