"""Positions as strips: what a level means, how groups are named, how strips become coarser."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sfi_agent.details import Memory
from sfi_agent.runtime.strips import BINS, LEVELS, bin_width, strip, unpacked
from sfi_agent.trace.coarser import fitted
from tests.sfi_agent.trace.examples import long, memory, trace


def levels(found: Memory) -> np.ndarray:
    shape = (len(found.layers), len(found.heads), -1)
    return np.frombuffer(unpacked(found.levels), dtype=np.uint8).reshape(shape)


def of(chosen: dict[int, list[list[int]]], sink: int, tail: int, length: int) -> Memory:
    made = strip({layer: torch.tensor(each) for layer, each in chosen.items()}, sink, tail, length)
    return Memory(step=0, sink=sink, tail=tail, length=length, seconds=None, read=0.0, **made)


def test_a_short_context_is_shown_position_by_position() -> None:
    found = of({3: [[-1, 4], [2, 5]]}, sink=1, tail=8, length=10)
    assert (found.width, found.layers, found.heads, found.chosen) == (1, ("3",), ("0", "1"), 1.5)
    held = [[0, 4, 8, 9], [0, 2, 5, 8, 9]]
    for head, expected in enumerate(held):
        assert [*levels(found)[0, head].nonzero()[0]] == expected
    assert set(levels(found).ravel()) == {0, LEVELS}


def test_layers_and_heads_fall_into_groups() -> None:
    found = of({layer: [[layer]] * 16 for layer in range(1, 31)}, sink=0, tail=40, length=41)
    assert found.layers == ("1-10", "11-20", "21-30")
    assert found.heads == ("0-1", "2-3", "4-5", "6-7", "8-9", "10-11", "12-13", "14-15")
    shown = levels(found)
    assert shown[0, 0, 5] == np.ceil(LEVELS / 10), "one layer of ten holds it"
    assert shown[1, 0, 5] == 0
    assert (shown[:, :, 40] == LEVELS).all()


def test_a_wide_bin_tells_the_share_of_its_positions() -> None:
    length = 4 * BINS
    found = of({0: [[1000, 1001, 1002, 2000]]}, sink=4, tail=length - 4, length=length)
    assert found.width == 4
    shown = levels(found)[0, 0]
    assert shown.shape == (BINS,)
    assert (shown[0], shown[-1]) == (LEVELS, LEVELS)
    assert (shown[250], shown[500], shown.sum()) == (12, 4, 2 * LEVELS + 16)


@pytest.mark.parametrize("length", [1, 2, 511, 512, 513, 1024, 1025, 8000, 200_000])
def test_bins_are_the_narrowest_that_are_few_enough(length: int) -> None:
    width = bin_width(length)
    assert -(-length // width) <= BINS
    assert width == 1 or -(-length // (width // 2)) > BINS


def test_a_trace_that_is_too_large_gets_coarser_strips_and_no_less_else() -> None:
    whole = long(1000, 40)
    size = len(whole.model_dump_json())
    small = fitted(whole, int(0.7 * size))
    assert len(small.model_dump_json()) <= 0.7 * size
    (turn,), (other,) = small.turns, whole.turns
    assert turn.tokens == other.tokens
    for coarse, fine in zip(turn.memories, other.memories, strict=True):
        ratio = coarse.width // fine.width
        assert ratio > 1
        bins = -(-fine.length // coarse.width)
        assert levels(coarse).shape == (*levels(fine).shape[:2], bins)
        for bin in (0, bins // 2, bins - 1):
            mean = levels(fine)[..., bin * ratio : (bin + 1) * ratio].mean(-1)
            assert (levels(coarse)[..., bin] == np.ceil(mean)).all()


def test_a_trace_that_fits_is_left_as_it_is() -> None:
    whole = trace()
    assert fitted(whole, 1_000) == whole


def test_a_trace_that_can_never_fit_is_made_as_small_as_makes_sense() -> None:
    small = fitted(long(1000, 40), 10)
    assert all(each.length // each.width <= 64 for each in small.turns[0].memories)
    assert memory(0, 1000).width == 2
