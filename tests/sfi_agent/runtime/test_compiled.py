"""A model whose layers are compiled and whose linear layers the lane's kernel computes."""

from __future__ import annotations

from functools import partialmethod
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sfi_agent.registry import default_registry
from sfi_agent.runtime.compiled import compiled
from sfi_agent.runtime.pages import PagedCache
from sfi_agent.runtime.pool import PagePool
from sfi_agent.runtime.replay import Replayer
from sfi_agent.runtime.row import Row
from sfi_agent.runtime.step import Step, Work


@pytest.fixture
def traced(monkeypatch):
    """Compiles without making machine code, which takes a minute."""
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="eager"))


def test_the_kernel_computes_every_linear_layer(tiny, shared, traced, monkeypatch):
    kernel = default_registry().create("kernel", "torch")
    like = torch.zeros(2, 16)
    pool = PagePool(5, 2, (like, like))
    row = Row(kv=PagedCache(pool))
    Step([row], [Work(tuple(tiny.prompt(40)))], [kernel], shared.window).run(
        shared.model, torch.device("cpu")
    )
    parts = SimpleNamespace(kernel=kernel, selector=SimpleNamespace(rows_wanted=lambda: 0))
    job = SimpleNamespace(turn=SimpleNamespace(row=row, work=Work((7,)), parts=parts))
    replayer = Replayer(shared.model, pool, shared.window)
    (plain,) = replayer.run([job])
    wanted = plain.logits[0].clone()
    row.truncate(40)
    widths = []
    rows = type(kernel.rows())
    real = rows.linear
    monkeypatch.setattr(
        rows,
        "linear",
        lambda self, x, weight, bias: widths.append(len(weight)) or real(self, x, weight, bias),
    )
    modules = {name: type(module) for name, module in shared.model.named_modules()}
    with compiled(shared.model):
        (found,) = replayer.run([job])
    torch.testing.assert_close(found.logits[0], wanted)
    config = shared.model.config
    together = (config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim
    layer = [together, config.hidden_size, 2 * config.intermediate_size, config.hidden_size]
    assert widths == 2 * layer + [config.vocab_size]
    assert {name: type(module) for name, module in shared.model.named_modules()} == modules
