"""What several tests of the runtime use."""

from __future__ import annotations

import pytest

from sfi_agent import Runtime


@pytest.fixture(params=[None, 2**23], ids=["copied", "paged"])
def opened(tiny, shared, request):
    """Opens a runtime of the shared model whose sessions have their own caches, or pages."""
    runtimes = []

    def open_with(**options):
        made = Runtime.load(shared.model, tokenizer=shared.tokenizer, kv_bytes=request.param, **options)
        runtimes.append(made)
        return made

    yield open_with
    for runtime in runtimes:
        runtime.close()
