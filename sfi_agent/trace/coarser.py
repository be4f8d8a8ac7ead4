"""Traces made smaller: strips with fewer bins."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sfi_agent.details import Memory
from sfi_agent.runtime.strips import LEVELS, packed, unpacked
from sfi_agent.trace.model import Trace

FEWEST = 32
"""Bins below which a strip shows nothing."""


def fitted(trace: Trace, most: int) -> Trace:
    """The trace with strips so coarse that its JSON has at most about ``most`` characters, if that can be."""
    turns = trace.turns
    rest = len(trace.model_dump_json()) - sum(len(each.levels) for turn in turns for each in turn.memories)
    while rest + sum(len(each.levels) for turn in turns for each in turn.memories) > most:
        widths = [
            each.width for turn in turns for each in turn.memories if each.length // each.width > FEWEST
        ]
        if not widths:
            break
        width = 2 * min(widths)
        turns = [
            turn.model_copy(update={"memories": [_coarser(each, width) for each in turn.memories]})
            for turn in trace.turns
        ]
    return trace.model_copy(update={"turns": turns})


def _coarser(memory: Memory, width: int) -> Memory:
    """The same memory in bins of ``width`` positions, if its own are narrower."""
    if memory.width >= width:
        return memory
    rows, ratio = len(memory.layers) * len(memory.heads), width // memory.width
    fine = np.frombuffer(unpacked(memory.levels), dtype=np.uint8).reshape(rows, -1)
    bins = -(-fine.shape[1] // ratio)
    padded = np.zeros((rows, bins * ratio))
    padded[:, : fine.shape[1]] = fine
    sizes = np.full(bins, ratio)
    sizes[-1] = fine.shape[1] - (bins - 1) * ratio
    levels = np.ceil(padded.reshape(rows, bins, ratio).sum(-1) / sizes).clip(0, LEVELS)
    return replace(memory, width=width, levels=packed(levels.astype(np.uint8).tobytes()))
