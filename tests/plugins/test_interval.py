"""A slow step every so many tokens."""

import pytest

from sfi_agent.errors import SettingError
from sfi_agent.registry import Registry
from sfi_plugins.boundaries.interval import IntervalDetector


def test_it_counts_tokens_with_and_without_text():
    detector = IntervalDetector(every=3)
    assert [detector.observe(text) for text in ("", "a", "", "b", "", "c", "")] == [
        False, False, True, False, False, True, False]  # fmt: skip


def test_the_default_is_32():
    detector = IntervalDetector()
    assert [place for place in range(1, 100) if detector.observe("")] == [32, 64, 96]


def test_every_must_be_positive():
    with pytest.raises(SettingError, match="every must be at least 1"):
        Registry().create("boundary", "interval", {"every": 0})
