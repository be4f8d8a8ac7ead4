"""What every boundary detector must do."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from sfi_agent.boundaries import Trigger
from sfi_agent.contracts import BoundaryDetector, TokenFlag, Vocabulary
from sfi_agent.errors import UnknownNameError
from sfi_agent.registry import Registry, default_registry

TEXTS = ("", "\ufffd", " ", "\n", ".", ".\n\n", " the", "3.14", "?", "{", "}", '"', "。", "é", "</", "<eos>")
SAMPLE = (
    'It is late. "Is it?" Yes!\n\nIt is 3.14; 天气很好。走吧！\n'
    '<tool_call>\n{"name": "find", "arguments": {"text": "a } or \\" here"}}\n</tool_call>\n'
    '[TOOL_CALLS] [{"name": "f"}] <|python_tag|><function=f> { not json } {} done.\n'
)


class TextVocabulary(Vocabulary):
    """A vocabulary made of the texts given; a token's id is its place among them."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = tuple(texts)

    @cached_property
    def texts(self) -> Sequence[str]:
        return self._texts


class BoundaryTests:
    """Subclass as ``class TestMine(BoundaryTests)`` and set ``name``.

    Attributes:
        name: what the detector is registered as.
        settings: given when it is made.
        texts: vocabulary to compile for.
        sample: text to stream; put what your detector looks for in it.

    A detector that depends on how text is cut into tokens, such as one that counts them, says so
    with a class attribute ``counts_tokens = True``.
    """

    name: ClassVar[str]
    settings: ClassVar[dict[str, Any]] = {}
    texts: ClassVar[Sequence[str]] = TEXTS
    sample: ClassVar[str] = SAMPLE

    def registry(self) -> Registry:
        """Where the name is looked up; override it for a plugin that is not installed."""
        return default_registry()

    def make(self) -> BoundaryDetector:
        """A new detector."""
        made: BoundaryDetector = self.registry().create("boundary", self.name, self.settings)
        return made

    def trigger(self, detector: BoundaryDetector) -> Trigger:
        """A trigger that does whatever the detector says."""
        return Trigger([detector], TextVocabulary(self.texts), min_gap=0, max_interval=10**9)

    def test_it_overrides_exactly_one(self) -> None:
        kind, names = type(self.make()), ("flags", "observe", "watch")
        overridden = [name for name in names if getattr(kind, name) is not getattr(BoundaryDetector, name)]
        assert len(overridden) == 1, f"override one of {names}, not {overridden}"
        assert kind.watches == (overridden == ["watch"]), "watches says whether watch is overridden"

    def test_flags_fit_the_vocabulary(self) -> None:
        for texts in (self.texts, self.texts[:1], ()):
            flags = self.make().flags(TextVocabulary(texts))
            if flags is None:
                pytest.skip("reads text or logits")
            assert flags.dtype == np.uint8
            assert flags.shape == (len(texts),)
            assert (flags <= max(TokenFlag) * 2 - 1).all(), "unknown flag"

    def test_flags_depend_on_the_text_alone(self) -> None:
        flags, backwards = (
            self.make().flags(TextVocabulary(texts)) for texts in (self.texts, self.texts[::-1])
        )
        if flags is None or backwards is None:
            pytest.skip("reads text or logits")
        assert flags.tolist() == backwards.tolist()[::-1]

    def test_observe_answers_yes_or_no(self) -> None:
        detector = self.observer()
        assert all(isinstance(detector.observe(text), bool) for text in ["", *self.sample, ""])

    def test_what_is_due_fires(self) -> None:
        detector = self.make()
        if detector.flags(TextVocabulary(self.texts)) is not None:
            pytest.skip("compiles to flags")
        for place, text in enumerate(self.sample):
            due = detector.due()
            fires = detector.watch(self.logits(place)) if detector.watches else detector.observe(text)
            assert fires or not due

    def test_reset_makes_it_as_new(self) -> None:
        source = random.Random(0)
        tokens = [(source.randrange(len(self.texts)), text) for text in self.sample]
        for stop in range(0, len(tokens), 3):
            used = self.trigger(self.make())
            for token, text in tokens[:stop]:
                used.observe(token, text, self.logits(token))
            used.reset()
            fresh = self.trigger(self.make())
            for token, text in tokens[stop:]:
                seen = token, text, self.logits(token)
                assert used.observe(*seen) == fresh.observe(*seen)

    def test_two_detectors_share_nothing(self) -> None:
        disturbed, other, alone = self.make(), self.make(), self.make()
        triggers = [self.trigger(detector) for detector in (disturbed, other, alone)]
        for place, text in enumerate(self.sample):
            token = place % len(self.texts)
            triggers[1].observe((token + 1) % len(self.texts), self.sample[-place:], self.logits(place + 1))
            seen = token, text, self.logits(place)
            assert triggers[0].observe(*seen) == triggers[2].observe(*seen)

    def test_watch_answers_yes_or_no_and_leaves_logits_alone(self) -> None:
        detector = self.make()
        if not detector.watches:
            pytest.skip("watches no logits")
        for place in range(40):
            logits = self.logits(place)
            before = logits.clone()
            assert isinstance(detector.watch(logits), bool)
            assert torch.equal(logits, before)

    @pytest.mark.parametrize("seed", range(20))
    def test_the_cutting_of_text_does_not_matter(self, seed: int) -> None:
        """A piece of text fires exactly if one of its characters does."""
        by_character, by_piece = self.observer(), self.observer()
        if getattr(by_piece, "counts_tokens", False):
            pytest.skip("counts tokens")
        for piece in pieces(self.sample, random.Random(seed)):
            expected = any([by_character.observe(character) for character in piece])  # noqa: C419 no early stop
            assert by_piece.observe(piece) == expected, piece

    def test_an_unknown_setting_names_the_known_ones(self) -> None:
        factory = self.registry().entries("boundary")[self.name].factory
        if not dataclasses.is_dataclass(factory):
            pytest.skip("not a dataclass: its settings cannot be listed")
        with pytest.raises(UnknownNameError) as error:
            self.registry().create("boundary", self.name, {"no_such_setting": 1})
        assert all(field.name in str(error.value) for field in dataclasses.fields(factory) if field.init)

    def logits(self, seed: int) -> torch.Tensor:
        """``[vocabulary]`` logits, of one clear choice or of many, by turns of eight."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(len(self.texts), generator=generator) * (8 if seed // 8 % 2 else 0.1)

    def observer(self) -> BoundaryDetector:
        """A new detector, if it is one that reads text."""
        detector = self.make()
        if detector.watches:
            pytest.skip("watches logits")
        if detector.flags(TextVocabulary(self.texts)) is not None:
            pytest.skip("compiles to flags")
        return detector


def pieces(text: str, source: random.Random) -> list[str]:
    """``text`` cut at random, empty pieces included."""
    cuts = sorted(source.randrange(len(text) + 1) for _ in range(source.randrange(len(text))))
    return [text[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True)]
