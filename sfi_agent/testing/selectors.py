"""What every selector must do."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from sfi_agent.contracts import Evidence, Selection, Selector, View
from sfi_agent.errors import UnknownNameError
from sfi_agent.registry import Registry, default_registry
from sfi_agent.testing.storing import through_a_file

START = 4


class SelectorTests:
    """Subclass as ``class TestMine(SelectorTests)`` and set ``name``.

    Attributes:
        name: what the selector is registered as.
        settings: given when it is made.
        device: where evidence and keys lie.
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

    def select(self, evidence: Evidence, view: View) -> Selection:
        """The selection of a new selector, checked against the contract."""
        selector = self.make()
        selection = selector.refresh(evidence, view)
        check_selection(selection, evidence, view, budgeted=not selector.reranks)
        return selection

    @pytest.mark.parametrize("candidates", [1, 2, 17, 101])
    @pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
    @pytest.mark.parametrize("heads", [1, 2, 5])
    def test_selection_is_valid(self, candidates: int, share: float, heads: int) -> None:
        evidence, view = self.case(heads=heads, candidates=candidates, count=round(share * candidates))
        self.select(evidence, view)

    @pytest.mark.parametrize("heads", [1, 2, 5])
    def test_everything_is_selected_when_everything_fits(self, heads: int) -> None:
        evidence, view = self.case(heads=heads, candidates=33, count=33)
        everything = torch.arange(START, START + 33, device=self.device)
        assert (self.select(evidence, view).positions == everything).all()

    def test_no_candidates(self) -> None:
        evidence, view = self.case(candidates=0, count=0)
        self.select(evidence, view)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
    def test_keys_of_the_model_dtype(self, dtype: torch.dtype) -> None:
        evidence, view = self.case(candidates=41, count=9)
        keys = [key.to(dtype) for key in view.keys]
        self.select(evidence, dataclasses.replace(view, keys=keys))

    def test_one_captured_token(self) -> None:
        self.select(*self.case(candidates=41, count=9, most_captured=1))

    @pytest.mark.parametrize("scale", [0.0, 1e3])
    def test_flat_and_extreme_evidence(self, scale: float) -> None:
        evidence, view = self.case(candidates=41, count=9)
        self.select(dataclasses.replace(evidence, logits=evidence.logits * scale), view)

    def test_keys_without_a_norm(self) -> None:
        evidence, view = self.case(candidates=41, count=9)
        keys = [torch.zeros_like(key) for key in view.keys]
        self.select(evidence, dataclasses.replace(view, keys=keys))

    def test_ties_are_broken_the_same_way_each_time(self) -> None:
        evidence, view = self.case(layers=3, heads=2, candidates=301, count=40)
        tied = dataclasses.replace(evidence, logits=torch.zeros_like(evidence.logits))
        flat = dataclasses.replace(view, keys=[torch.ones_like(key) for key in view.keys])
        first, second = (self.select(tied, flat).positions for _ in range(2))
        assert torch.equal(first, second)
        assert (first == first[:1]).all(), "equal layers got different positions"

    def test_layers_in_one_call_or_in_several(self) -> None:
        evidence, view = self.case(layers=3, candidates=57, count=12)
        together = self.select(evidence, view).positions
        for layer in range(3):
            one = dataclasses.replace(evidence, logits=evidence.logits[layer : layer + 1])
            its = dataclasses.replace(view, layers=(view.layers[layer],), keys=[view.keys[layer]])
            assert torch.equal(self.select(one, its).positions[0], together[layer])

    def test_reset_makes_it_as_new(self) -> None:
        used, cases = self.make(), [self.case(candidates=57, count=12, seed=seed) for seed in range(2)]
        for evidence, view in cases:
            used.refresh(evidence, view)
        used.reset()
        assert torch.equal(used.refresh(*cases[0]).positions, self.select(*cases[0]).positions)

    def test_stored_and_restored_it_goes_on_as_if_never_stopped(self) -> None:
        """An override of ``state`` and ``restore``, or what they do by themselves, must hold all it keeps."""
        used, cases = self.make(), [self.case(candidates=57 + seed, count=12, seed=seed) for seed in range(4)]
        for evidence, view in cases[:2]:
            used.refresh(evidence, view)
        restored = through_a_file(used, self.make(), self.device)
        for evidence, view in cases[2:]:
            expected = used.refresh(evidence, view).positions
            assert torch.equal(restored.refresh(evidence, view).positions, expected)

    def test_what_is_stored_is_no_part_of_it(self) -> None:
        """A session may go on while it is written, so what goes on must not change what was taken."""
        used, cases = self.make(), [self.case(candidates=57, count=12, seed=seed) for seed in range(2)]
        used.refresh(*cases[0])
        restored = through_a_file(used, self.make(), self.device)
        expected = through_a_file(used, self.make(), self.device).refresh(*cases[1]).positions
        used.refresh(*cases[1])
        used.refresh(*cases[0])
        assert torch.equal(restored.refresh(*cases[1]).positions, expected)

    def test_its_input_is_left_alone(self) -> None:
        evidence, view = self.case(candidates=57, count=12)
        logits, keys = evidence.logits.clone(), [key.clone() for key in view.keys]
        self.select(evidence, view)
        assert torch.equal(evidence.logits, logits)
        assert all(torch.equal(after, before) for after, before in zip(view.keys, keys, strict=True))

    def test_an_unknown_setting_names_the_known_ones(self) -> None:
        factory = self.registry().entries("selector")[self.name].factory
        if not dataclasses.is_dataclass(factory):
            pytest.skip("not a dataclass: its settings cannot be listed")
        with pytest.raises(UnknownNameError) as error:
            self.registry().create("selector", self.name, {"no_such_setting": 1})
        assert all(field.name in str(error.value) for field in dataclasses.fields(factory) if field.init)

    def case(
        self,
        *,
        layers: int = 2,
        heads: int = 3,
        candidates: int,
        count: int,
        most_captured: int = 16,
        seed: int = 0,
    ) -> tuple[Evidence, View]:
        """Random evidence of two query heads a KV head, and its view."""
        generator = torch.Generator().manual_seed(seed)
        captured = min(self.make().rows_wanted(), most_captured)
        logits = 3 * torch.randn(layers, heads, 2 * captured, candidates, generator=generator)
        keys = torch.randn(layers, heads, candidates, 8, generator=generator).to(self.device)
        stop = START + candidates
        view = View(START, stop, stop + 23, count, tuple(range(1, layers + 1)), list(keys))
        return Evidence(logits.to(self.device), captured), view


def check_selection(selection: Selection, evidence: Evidence, view: View, *, budgeted: bool = True) -> None:
    """Assert what the contract says of every selection; one of candidates is not ``budgeted``."""
    positions = selection.positions
    layers, heads = evidence.logits.shape[:2]
    assert positions.shape[:2] == (layers, heads)
    assert positions.device == evidence.logits.device
    check_positions(positions, view.start, view.stop)
    if budgeted:
        assert (positions >= 0).sum() <= layers * heads * view.count, "more positions than the budget allows"


def check_positions(positions: Tensor, start: int, stop: int) -> None:
    """Assert that ``[..., S]`` positions ascend in their range, unused places (-1) before them."""
    assert positions.dtype == torch.int64
    ascending = (positions.diff(dim=-1) > 0) | (positions[..., :-1] < 0)
    assert ascending.all(), "positions must ascend, each once, -1 before them"
    assert ((positions == -1) | (positions >= start) & (positions < stop)).all(), "positions out of range"
