"""Compiling without a compiler."""

from __future__ import annotations

from functools import partial

import pytest
import torch


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
