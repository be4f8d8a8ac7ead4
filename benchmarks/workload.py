"""What the benchmarks read: text of the standard library, gathered at run time."""

from __future__ import annotations

import pydoc_data.topics
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sfi_agent import Runtime

MODEL = "smollm2-135m"


def long_prompt(runtime: Runtime, tokens: int) -> list[int]:
    """The first ``tokens`` tokens of the language reference that Python carries."""
    text = "\n\n".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics))
    return runtime.encode(text[: 8 * tokens], raw=True)[:tokens]
