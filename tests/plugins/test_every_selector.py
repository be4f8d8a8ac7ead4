"""The conformance tests, over every selector this installation has."""

from typing import ClassVar

import pytest

from sfi_agent.registry import Registry
from sfi_agent.testing import SelectorTests


class TestEverySelector(SelectorTests):
    @pytest.fixture(autouse=True, params=sorted(Registry().entries("selector")))
    def _each(self, request):
        self.name = request.param


class TestPaperWithoutItsSteps(SelectorTests):
    name = "paper"
    settings: ClassVar = {"prior": False, "suppression": False, "exclusivity": False, "power": 1.0}


class TestSnapKVAverage(SelectorTests):
    name = "snapkv"
    settings: ClassVar = {"pooling": "avg", "kernel": 3, "window": 2}
