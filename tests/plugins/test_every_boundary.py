"""The conformance tests, over every boundary detector this installation has."""

from typing import ClassVar

import pytest

from sfi_agent.registry import Registry
from sfi_agent.testing import BoundaryTests


class TestEveryBoundary(BoundaryTests):
    @pytest.fixture(autouse=True, params=sorted(Registry().entries("boundary")))
    def _each(self, request):
        self.name = request.param


class TestToolCallWithoutBraces(BoundaryTests):
    name = "tool_call"
    settings: ClassVar = {"json_braces": False}


class TestToolCallWithoutDelimiters(BoundaryTests):
    name = "tool_call"
    settings: ClassVar = {"delimiters": []}


class TestToolCallWithOverlappingDelimiters(BoundaryTests):
    name = "tool_call"
    settings: ClassVar = {"delimiters": ["call", "l_c", "ll", "<tool_call>\n{"]}
