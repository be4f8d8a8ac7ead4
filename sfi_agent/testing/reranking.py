"""What every selector that re-ranks must do, and the index it ranks from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from sfi_agent.contracts import KeyIndex, LayerSpec, Ranking, Selector
from sfi_agent.registry import Registry, default_registry
from sfi_agent.testing.selectors import START, check_positions
from sfi_agent.testing.storing import through_a_file

DIM, SPAN, GROUP = 16, 150, 3


class RerankingTests:
    """Subclass as ``class TestMine(RerankingTests)`` beside ``SelectorTests``, and set ``name``.

    Attributes:
        name: what the selector is registered as.
        settings: given when it is made.
        device: where queries and keys lie.
    """

    name: ClassVar[str]
    settings: ClassVar[dict[str, Any]] = {}
    device: ClassVar[str] = "cpu"

    def registry(self) -> Registry:
        """Where the name is looked up; override it for a plugin that is not installed."""
        return default_registry()

    def make(self) -> Selector:
        """A new selector."""
        made: Selector = self.registry().create("selector", self.name, self.settings)
        return made

    @pytest.mark.parametrize("new", [1, 5])
    @pytest.mark.parametrize("heads", [1, 2, 4])
    @pytest.mark.parametrize("count", [0, 1, 17, 90, 146])
    def test_positions_are_valid(self, new: int, heads: int, count: int) -> None:
        chosen = self.choose(self.keys(heads), new=new, count=count)
        assert chosen.shape[:2] == (new, heads)
        check_positions(chosen, START, SPAN)
        assert ((chosen >= 0).sum((1, 2)) <= heads * count).all(), "more positions than the budget allows"

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
    def test_keys_of_the_model_dtype(self, dtype: torch.dtype) -> None:
        check_positions(self.choose(self.keys(2).to(dtype), new=1, count=17), START, SPAN)

    def test_one_candidate_and_none(self) -> None:
        for stop in (START, START + 1):
            chosen = self.choose(self.keys(2), new=2, count=stop - START, stop=stop)
            check_positions(chosen, START, stop)

    def test_keys_without_a_norm(self) -> None:
        check_positions(self.choose(torch.zeros(2, SPAN, DIM), new=2, count=17), START, SPAN)

    def test_what_the_query_looks_for_is_found(self) -> None:
        """One key of each head is the query's own direction, and large."""
        keys, queries = self.keys(2), self.queries(1, 2)
        for head, place in ((0, 40), (1, 101)):
            keys[head, place] = 6 * queries[0, head * GROUP] / queries[0, head * GROUP].norm()
        # All query heads of the group ask the same.
        asked = queries.view(1, 2, GROUP, DIM)[:, :, :1].expand(-1, -1, GROUP, -1).flatten(1, 2)
        chosen = self.rank(self.make(), self.index(keys), asked, self.ranking(2, 20))
        assert 40 in chosen[0, 0]
        assert 101 in chosen[0, 1]

    def test_each_query_chooses_alone(self) -> None:
        keys, queries = self.keys(2), self.queries(4, 2)
        together = self.rank(self.make(), self.index(keys), queries, self.ranking(2, 20))
        for i in range(4):
            alone = self.rank(self.make(), self.index(keys), queries[i : i + 1], self.ranking(2, 20))
            assert [set(row.tolist()) - {-1} for row in alone[0]] == [
                set(row.tolist()) - {-1} for row in together[i]
            ]

    def test_candidates_bound_the_choice(self) -> None:
        if not self.make().rows_wanted():
            pytest.skip("it asks for no evidence, so no candidates are given")
        keys = self.keys(2)
        candidates = torch.stack([torch.arange(START, SPAN, 2), torch.arange(START + 1, SPAN, 2)])
        ranking = dataclasses.replace(self.ranking(2, 20), candidates=candidates.to(self.device))
        chosen = self.rank(self.make(), self.index(keys), self.queries(3, 2), ranking)
        check_positions(chosen, START, SPAN)
        for head in range(2):
            assert set(chosen[:, head].flatten().tolist()) <= {-1, *candidates[head].tolist()}

    @pytest.mark.parametrize("cuts", [(1, 2), (37, 38), (16, 32), (64, 149)])
    def test_an_index_grown_in_pieces(self, cuts: tuple[int, int]) -> None:
        """The first append may set what later ones build on, so it is the same in both."""
        keys, first, second = self.keys(2), *cuts
        pieces = self.index(keys[:, :first]), self.index(keys[:, :first])
        for piece in (keys[:, first:second], keys[:, second:]):
            pieces[0].append(piece.to(self.device))
        pieces[1].append(keys[:, first:].to(self.device))
        self.same(*pieces)

    @pytest.mark.parametrize("length", [0, 1, 40, 48, 149, 150])
    def test_an_index_cut_and_grown_again(self, length: int) -> None:
        keys, other = self.keys(2), 9 + self.keys(2)
        cut = self.index(keys[:, :length]) if length else self.index(other)
        cut.append(other[:, length:].to(self.device))
        cut.truncate(length)
        assert cut.length <= length
        cut.append(keys[:, cut.length :].to(self.device))
        assert cut.length == SPAN
        never = self.index(keys[:, : length or SPAN])
        never.append(keys[:, length or SPAN :].to(self.device))
        self.same(cut, never)

    @pytest.mark.parametrize("length", [1, 37, 48, SPAN])
    def test_a_stored_index_is_the_same_and_grows_the_same(self, length: int) -> None:
        keys = self.keys(2).to(self.device)
        used = self.index(keys[:, :length])
        restored = through_a_file(used, self.new_index(), self.device)
        assert restored.length == used.length
        for index in (used, restored):
            index.append(keys[:, length:])
        self.same(restored, used, exactly=True)

    @pytest.mark.parametrize("length", [1, 40, 48])
    def test_a_stored_index_is_cut_the_same(self, length: int) -> None:
        keys = self.keys(2).to(self.device)
        used = self.index(keys)
        restored = through_a_file(used, self.new_index(), self.device)
        for index in (used, restored):
            index.truncate(length)
            index.append(keys[:, index.length :])
        self.same(restored, used, exactly=True)

    def test_stored_and_restored_it_ranks_the_same(self) -> None:
        used, layers = self.make(), range(6)
        indexes = [used.index(layer) for layer in layers]
        for index in indexes:
            if index is not None:
                index.append(self.keys(2).to(self.device))
        self.ranked(used, indexes, seed=3)
        restored = through_a_file(used, self.make(), self.device)
        again = [self.restored_index(restored, layer, index) for layer, index in enumerate(indexes)]
        for seed in (4, 5):
            expected = self.ranked(used, indexes, seed)
            assert torch.equal(self.ranked(restored, again, seed), expected)

    def test_bytes_grow_with_positions(self) -> None:
        index = self.index(self.keys(2))
        assert 0 < index.bytes_read(16) <= index.bytes_read(SPAN)
        assert index.bytes_read(SPAN) < 2 * SPAN * DIM * 4, "an index larger than the keys saves nothing"

    def choose(self, keys: Tensor, *, new: int, count: int, stop: int = SPAN) -> Tensor:
        """What a new selector chooses for ``new`` random queries."""
        heads = keys.shape[0]
        ranking = dataclasses.replace(self.ranking(heads, count), stop=stop)
        return self.rank(self.make(), self.index(keys), self.queries(new, heads), ranking)

    def rank(self, selector: Selector, index: KeyIndex, queries: Tensor, ranking: Ranking) -> Tensor:
        """Its choice, on this device."""
        return selector.rerank(queries.to(self.device), index, ranking)

    def ranked(self, selector: Selector, indexes: Sequence[KeyIndex | None], seed: int) -> Tensor:
        """``[layers, 2, 2, S]``: what a step's queries choose in each layer, -1 in unused places."""
        generator = torch.Generator().manual_seed(seed)
        queries = torch.randn(2, 2 * GROUP, DIM, generator=generator).to(self.device)
        ranking = self.ranking(2, 20)
        chosen = [
            selector.rerank(queries, index, dataclasses.replace(ranking, layer=layer))
            for layer, index in enumerate(indexes)
        ]
        width = max(places.shape[-1] for places in chosen)
        pad = torch.nn.functional.pad
        return torch.stack([pad(places, (width - places.shape[-1], 0), value=-1) for places in chosen])

    def restored_index(self, selector: Selector, layer: int, stored: KeyIndex | None) -> KeyIndex | None:
        """A restored selector's index of a layer, with what was stored of it."""
        made = selector.index(layer)
        if stored is None or made is None:
            assert made is stored, f"layer {layer} has an index before and none after, or the other way round"
            return None
        return through_a_file(stored, made, self.device)

    def new_index(self) -> KeyIndex:
        """The first layer's index, empty."""
        made = self.make().index(0)
        assert made is not None, "the first layer has nothing to rank from"
        return made

    def index(self, keys: Tensor) -> KeyIndex:
        """The first layer's index over these keys."""
        made = self.new_index()
        made.append(keys.to(self.device))
        return made

    def same(self, first: KeyIndex, second: KeyIndex, *, exactly: bool = False) -> None:
        """Assert that two indexes estimate the same products, bit for bit if ``exactly``."""
        queries = self.queries(2, 2).to(self.device).view(2, 2, GROUP, DIM)
        products = [index.products(queries, START, SPAN) for index in (first, second)]
        assert products[0].shape == (2, 2, GROUP, SPAN - START)
        if exactly:
            assert torch.equal(*products)
        torch.testing.assert_close(*products)

    def ranking(self, heads: int, count: int) -> Ranking:
        """Everything between the sink and ``SPAN``."""
        return Ranking(0, START, SPAN, count, heads, LayerSpec(scaling=DIM**-0.5))

    def keys(self, heads: int) -> Tensor:
        """``[heads, SPAN, DIM]``, with a mean."""
        generator = torch.Generator().manual_seed(2)
        return torch.randn(heads, SPAN, DIM, generator=generator) + torch.linspace(-1, 1, DIM)

    def queries(self, new: int, heads: int) -> Tensor:
        """``[new, heads * GROUP, DIM]``."""
        return torch.randn(new, heads * GROUP, DIM, generator=torch.Generator().manual_seed(3))
