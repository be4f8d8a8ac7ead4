"""The conformance tests, over every selector this installation has."""

from typing import ClassVar

import pytest

from sfi_agent.registry import Registry
from sfi_agent.testing import RerankingTests, SelectorTests

SELECTORS = sorted(Registry().entries("selector"))


class TestEverySelector(SelectorTests):
    @pytest.fixture(autouse=True, params=SELECTORS)
    def _each(self, request):
        self.name = request.param


RERANKING = [name for name in SELECTORS if Registry().create("selector", name).reranks]


class TestEveryReranking(RerankingTests):
    @pytest.fixture(autouse=True, params=RERANKING)
    def _each(self, request):
        self.name = request.param


class TestTwoBitPages(RerankingTests):
    name = "index"
    settings: ClassVar = {"bits": 2, "page": 16, "jointly": False}


class TestFourBits(RerankingTests):
    name = "index"
    settings: ClassVar = {"bits": 4}


class TestCandidatesOfTheSlowStep(SelectorTests):
    name = "index"
    settings: ClassVar = {"candidates": 0.5}


class TestPaperWithoutItsSteps(SelectorTests):
    name = "paper"
    settings: ClassVar = {"prior": False, "suppression": False, "exclusivity": False, "power": 1.0}


class TestSnapKVAverage(SelectorTests):
    name = "snapkv"
    settings: ClassVar = {"pooling": "avg", "kernel": 3, "window": 2}
