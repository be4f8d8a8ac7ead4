"""Conformance tests for plugins: subclass one, name the plugin, run pytest.

::

    from sfi_agent.testing import SelectorTests

    class TestMine(SelectorTests):
        name = "mine"

Needs pytest, and only this package does.
"""

from __future__ import annotations

import pytest

# Before the imports below: assertions are rewritten as a module is loaded.
pytest.register_assert_rewrite(
    "sfi_agent.testing.boundaries", "sfi_agent.testing.kernels", "sfi_agent.testing.selectors"
)

from sfi_agent.testing.boundaries import BoundaryTests, TextVocabulary  # noqa: E402
from sfi_agent.testing.kernels import KernelTests  # noqa: E402
from sfi_agent.testing.selectors import SelectorTests  # noqa: E402
from sfi_agent.testing.tolerances import TOLERANCES, Tolerance  # noqa: E402

__all__ = ["TOLERANCES", "BoundaryTests", "KernelTests", "SelectorTests", "TextVocabulary", "Tolerance"]
