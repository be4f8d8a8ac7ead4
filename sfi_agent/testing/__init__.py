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
_MODULES = "attending", "boundaries", "choosing", "kernels", "named", "reranking", "rows", "selectors"
pytest.register_assert_rewrite(*(f"sfi_agent.testing.{name}" for name in _MODULES))

from sfi_agent.testing.boundaries import BoundaryTests, TextVocabulary  # noqa: E402
from sfi_agent.testing.kernels import KernelTests  # noqa: E402
from sfi_agent.testing.reranking import RerankingTests  # noqa: E402
from sfi_agent.testing.rows import RowsKernelTests  # noqa: E402
from sfi_agent.testing.selectors import SelectorTests  # noqa: E402
from sfi_agent.testing.tolerances import TOLERANCES, Tolerance  # noqa: E402

__all__ = [
    "TOLERANCES",
    "BoundaryTests",
    "KernelTests",
    "RerankingTests",
    "RowsKernelTests",
    "SelectorTests",
    "TextVocabulary",
    "Tolerance",
]
