"""Where a step's time goes on a GPU: ``python benchmarks/gpu_profile.py [--kind KIND] [ROWSxCONTEXT ...]``.

Replays the step that the engine captures, of a model with random weights, under torch's profiler, and prints
the kernels of one layer in order, each with its mean over the layers and the pause before it, and what comes
before the first layer's attention and after the last layer. Nothing is recorded: the profiler costs time
itself.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rig import Rig, random_model, timed
from torch.profiler import ProfilerActivity, profile

KINDS = ("fast", "index", "dense", "verify", "repair", "prompt")
VERIFIED, FIRST = 16, {"repair": 24, "prompt": 512}
"""Tokens of each row that are verified, and of the one that is dense among fast ones."""
ATTENTION = "_attend"
"""The kernel that each layer has once, or twice in a row where rows of several tokens stand beside others."""


def main() -> None:
    """Shape after shape, kind after kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shapes", nargs="*", default=["8x32768"], help="rows x context, as in 8x32768")
    parser.add_argument("--model", default="qwen3-4b", help="qwen3-4b, qwen3-0.6b or llama-3-8b")
    parser.add_argument("--kind", action="append", choices=KINDS, help="of step; all if none is given")
    options = parser.parse_args()
    sizes = [tuple(map(int, each.split("x"))) for each in options.shapes]
    rig = Rig.of(random_model(options.model), max(rows * (context + 640) for rows, context in sizes))
    for rows, context in sizes:
        steps(rig, options.model, options.kind or KINDS, rows, context)


def steps(rig: Rig, model: str, kinds: Sequence[str], rows: int, context: int) -> None:
    """One shape's, whose pages are free again behind it."""
    own = [rig.row(context) for _ in range(rows)]
    for kind in kinds:
        for row in own:
            row.memory = rig.chosen(row) if kind == "index" else None
            if kind == "fast" or (kind in FIRST and row is not own[0]):
                row.memory = rig.listed(row)
        verifies = kind == "verify"
        tokens = [VERIFIED if verifies else 1] * rows
        tokens[0] = FIRST.get(kind, tokens[0])
        rig.replayer.run(rig.jobs(own, tokens, every=verifies))
        for row in own:
            row.kv.truncate(context)
        show(f"{kind} step of {model}, {rows} x {context}", rig.replayer.latest)


def show(title: str, graph: Any) -> None:
    """One step's kernels."""
    median = statistics.median(timed(graph.replay) for _ in range(9))
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        graph.replay()
        torch.cuda.synchronize()
    kernels = [each for each in profiled.events() if each.device_type == torch.autograd.DeviceType.CUDA]
    kernels.sort(key=lambda kernel: kernel.time_range.start)
    attends = [place for place, kernel in enumerate(kernels) if kernel.name == ATTENTION]
    begins = [place for place in attends if place - 1 not in attends]
    layers = [kernels[begin:end] for begin, end in pairwise(begins)]
    table = Table("kernel", "pause, µs", "µs", title=f"{title}: {median:.3f} ms", title_justify="left")
    same = [layer for layer in layers if len(layer) == len(layers[0])]
    for kernel in kernels[: begins[0]]:
        table.add_row(f"first: {kernel.name}"[:70], "", f"{kernel.time_range.elapsed_us():.1f}")
    for place, kernel in enumerate(layers[0]):
        table.add_row(kernel.name[:70], f"{_pause(same, place):.1f}", f"{_mean(same, place):.1f}")
    for kernel in kernels[begins[-1] + len(layers[0]) :]:
        table.add_row(f"last: {kernel.name}"[:70], "", f"{kernel.time_range.elapsed_us():.1f}")
    Console(width=100).print(table)


def _mean(layers: Sequence[Any], place: int) -> float:
    return statistics.mean(layer[place].time_range.elapsed_us() for layer in layers)


def _pause(layers: Sequence[Any], place: int) -> float:
    """Microseconds between the kernel before and this one."""
    if place == 0:
        return 0.0
    return statistics.mean(
        layer[place].time_range.start - layer[place - 1].time_range.end for layer in layers
    )


if __name__ == "__main__":
    main()
