"""What several tests of the runtime use."""

from __future__ import annotations

from functools import partial

import pytest
import torch

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


@pytest.fixture
def traced(monkeypatch):
    """Inductor's graphs, in the order in which they are made.

    They run as they are once the pass that inductor was given is over: machine code takes a minute to make.
    """
    from torch._inductor import compile_fx

    graphs = []

    def made(module, inputs, **_):
        if change := torch._inductor.config.post_grad_custom_pre_pass:
            change(module.graph)
            module.recompile()
        graphs.append(module.graph)
        return module

    monkeypatch.setattr(compile_fx, "compile_fx", partial(compile_fx.compile_fx, inner_compile=made))
    return graphs
