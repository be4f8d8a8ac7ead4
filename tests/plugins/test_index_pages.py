"""Whole pages that the ``index`` selector chooses, and what it does with a budget below one."""

from __future__ import annotations

import pytest
import torch

from sfi_plugins.selectors.index import IndexSelector

HEADS, PLACES = 2, 300


@pytest.fixture
def scores():
    return torch.rand(3, HEADS, PLACES, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("jointly", [True, False])
@pytest.mark.parametrize(("page", "count"), [(64, 24), (64, 63), (300, 299), (16, 1), (16, 15), (16, 0)])
def test_a_budget_below_a_page_goes_to_single_positions(scores, page, count, jointly):
    chosen = IndexSelector(page=page, jointly=jointly).choose(scores, count)
    assert torch.equal(chosen, IndexSelector(jointly=jointly).choose(scores, count))
    assert ((chosen >= 0).sum((1, 2)) == HEADS * count).all()


@pytest.mark.parametrize("jointly", [True, False])
@pytest.mark.parametrize(("page", "count"), [(16, 16), (16, 24), (16, 40), (10, 299), (64, 130)])
def test_more_goes_to_as_many_whole_pages_as_it_holds(scores, page, count, jointly):
    chosen = IndexSelector(page=page, jointly=jointly).choose(scores, count)
    pages = 0
    for places in chosen.flatten(0, 1):
        kept = set(places[places >= 0].tolist())
        begun = {place // page for place in kept}
        whole = {place for first in begun for place in range(first * page, (first + 1) * page)}
        assert kept == {place for place in whole if place < PLACES}
        pages += len(begun)
    assert pages == 3 * HEADS * (count // page)


@pytest.mark.parametrize("jointly", [True, False])
def test_a_budget_of_everything_takes_everything(scores, jointly):
    chosen = IndexSelector(page=16, jointly=jointly).choose(scores, PLACES)
    assert torch.equal(chosen, torch.arange(PLACES).expand(3, HEADS, -1))
